# SPDX-License-Identifier: Apache-2.0
"""Second-order deterministic sampling in few steps."""

from __future__ import annotations

import torch

from .respaced import RespacedScheduler, TimestepSpacing

__all__ = ["RespacedDPMSolverScheduler"]


class RespacedDPMSolverScheduler(RespacedScheduler):
    """DPM-Solver++(2M) (arXiv 2211.01095, algorithm 2) between the steps that are really kept.

    With ``alpha = sqrt(ab)``, ``sigma = sqrt(1 - ab)``, ``lambda = log(alpha / sigma)``, ``h = lambda_prev - lambda_t``
    and ``r = h_last / h``, where ``h_last`` is the ``h`` of the step before, one step is
    ``x_prev = sigma_prev / sigma_t * x_t - alpha_prev * expm1(-h) * D`` with
    ``D = (1 + 1 / (2 r)) * x0 - 1 / (2 r) * x0_last``. The network is called once per step, as in DDIM. The first step
    has ``D = x0``, and the last returns the estimate ``x0`` itself.

    The scheduler remembers the estimate of its last :meth:`step`. It uses it only if that call was for the kept step
    directly before, with a mask of the same shape, type and device, and else makes a step of first order; a new
    trajectory therefore needs no reset. Trajectories that run at the same time need one :meth:`for_trajectory` each.
    Copies of any kind start without memory, and :meth:`set_timesteps` clears it.

    Args:
        solver_order: 2, or 1, which equals DDIM with ``eta=0``.
        clip_sample: clamp ``x0`` and ``D`` to [-1, 1]. On by default, unlike in the other samplers: the extrapolation
            amplifies errors of the estimate, and implementations without the clamp and without the last step above
            end in black or out-of-range masks.
        timestep_spacing: ``"trailing"`` by default, since this sampler is meant for few steps: two or three of
            ``"linspace"`` jump from noise to an almost clean mask and lose most of the rarer class.
        kwargs: see :class:`RespacedScheduler`.

    Raises:
        ValueError: ``solver_order`` neither 1 nor 2.

    Example:
        >>> scheduler = RespacedDPMSolverScheduler(num_train_timesteps=100)
        >>> scheduler.set_timesteps(5)
        >>> scheduler.timesteps.tolist()
        [99, 79, 59, 39, 19]
    """

    # The timestep of the last call and its estimate of the clean mask.
    _last: tuple[int, torch.Tensor] | None

    def __init__(
        self,
        num_train_timesteps: int = 100,
        schedule: str = "segdiff_linear_beta",
        solver_order: int = 2,
        clip_sample: bool = True,
        timestep_spacing: str = TimestepSpacing.TRAILING,
        **kwargs: object,
    ) -> None:
        super().__init__(
            num_train_timesteps,
            schedule,
            clip_sample=clip_sample,
            timestep_spacing=timestep_spacing,
            **kwargs,  # type: ignore[arg-type]
        )
        if solver_order not in (1, 2):
            raise ValueError(f"solver_order must be 1 or 2, found {solver_order}.")
        self.solver_order = solver_order

    def __getstate__(self) -> dict[str, object]:
        # A copy begins a trajectory of its own; besides, an estimate with a gradient cannot be deep-copied.
        return {**self.__dict__, "_last": None}

    @property
    def is_stochastic(self) -> bool:
        return False

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device | None = None) -> None:
        super().set_timesteps(num_inference_steps, device)
        self._last = None

    def step(
        self,
        model_output: torch.Tensor,
        timestep: int,
        sample: torch.Tensor,
        noise: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        alpha_bar, previous = self.alpha_bars(timestep)
        x0 = self.predict_original_sample(model_output, timestep, sample)
        if previous == 1.0:
            self._last = None
            return x0, x0
        target = self._extrapolate(x0, int(timestep))
        if self.solver_order == 2:
            # A copy, since the caller may write into the tensors that it gave or gets.
            self._last = int(timestep), x0.clone()
        # The step of the class docstring, with expm1(-h) = sigma_prev alpha_t / (sigma_t alpha_prev) - 1 put in. So
        # written it is DDIM's step towards `target`: the same bits at first order, and no division by alpha = 0.
        epsilon = (sample - alpha_bar**0.5 * target) / (1 - alpha_bar) ** 0.5
        return previous**0.5 * target + (1 - previous) ** 0.5 * epsilon, x0

    def _extrapolate(self, x0: torch.Tensor, timestep: int) -> torch.Tensor:
        """Return D: the estimate, carried on to the middle of the step along lambda if the memory allows it."""
        kept = self.timesteps.tolist()
        position = kept.index(timestep)
        if self._last is None or position == 0 or self._last[0] != kept[position - 1]:
            return x0
        last = self._last[1]
        if (last.shape, last.dtype, last.device) != (x0.shape, x0.dtype, x0.device):
            return x0
        # lambda = log(alpha / sigma) is half the logit of alpha-bar.
        before, now, after = (float(torch.logit(self.alphas_cumprod[t])) for t in kept[position - 1 : position + 2])
        weight = (after - now) / (2 * (now - before))
        target = (1 + weight) * x0 - weight * last
        # Two masks in range extrapolate to one out of range, which no clean mask is: a step towards it overshoots.
        return target.clamp(-1, 1) if self.clip_sample else target
