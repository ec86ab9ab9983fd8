# SPDX-License-Identifier: Apache-2.0
"""What the samplers share: a float64 schedule, a kept subset of its steps, and the estimate of the clean mask."""

from __future__ import annotations

import copy
from abc import abstractmethod

import torch
from monai.networks.schedulers import Scheduler
from monai.utils import StrEnum, look_up_option

__all__ = ["RespacedScheduler"]


class PredictionType(StrEnum):
    """What the network's output means."""

    EPSILON = "epsilon"
    SAMPLE = "sample"
    V_PREDICTION = "v_prediction"


class TimestepSpacing(StrEnum):
    """Which of the training steps are kept."""

    LINSPACE = "linspace"
    TRAILING = "trailing"


class RespacedScheduler(Scheduler):
    """Base of samplers that may skip training steps and read the true previous one.

    MONAI's ``DDPMScheduler`` takes ``t - 1`` as the previous step whatever :meth:`set_timesteps` kept, and its
    ``DDIMScheduler`` a constant stride that differs from the steps it visits; both then sample from a slightly or
    grossly wrong distribution. Here the previous step is the next entry of :attr:`timesteps`, and after the last one
    alpha-bar is 1, so that the result is the estimate of the clean mask.

    The tables are float64 buffers; ``step`` reads them as numbers, samples stay in their own precision. Apart from
    :meth:`set_timesteps` no method changes the object, except that ``step`` of a multistep sampler remembers its last
    call: trajectories that run at the same time need one :meth:`for_trajectory` each.

    Args:
        num_train_timesteps: T, the number of steps of the training diffusion.
        schedule: name of a member of MONAI's ``NoiseSchedules``.
        prediction_type: what the network predicts: ``"epsilon"`` (the noise, as published), ``"sample"`` (the clean
            mask x0) or ``"v_prediction"`` (``sqrt(ab) * noise - sqrt(1 - ab) * x0``).
        clip_sample: clamp the estimate of the clean mask to [-1, 1] at every step. Published: no.
        timestep_spacing: ``"linspace"`` keeps evenly spaced steps from T - 1 to 0, both included (one step: T - 1), as
            the released code does; ``"trailing"`` keeps T - 1, T - 1 - T/n, ..., which spends no step on an almost
            clean mask and suits few steps.
        schedule_args: further arguments of the schedule.
    """

    def __init__(
        self,
        num_train_timesteps: int = 100,
        schedule: str = "segdiff_linear_beta",
        prediction_type: str = PredictionType.EPSILON,
        clip_sample: bool = False,
        timestep_spacing: str = TimestepSpacing.LINSPACE,
        **schedule_args: float,
    ) -> None:
        super().__init__(num_train_timesteps, schedule, **schedule_args)
        self.prediction_type = look_up_option(prediction_type, PredictionType)
        self.timestep_spacing = look_up_option(timestep_spacing, TimestepSpacing)
        self.clip_sample = clip_sample
        betas = self.betas.double()
        for name in ("betas", "alphas", "alphas_cumprod"):
            delattr(self, name)
        # Rebuilt in float64: in float32 `1 - alphas_cumprod` loses half of its digits at the first steps.
        self.register_buffer("betas", betas, persistent=False)
        self.register_buffer("alphas", 1 - betas, persistent=False)
        self.register_buffer("alphas_cumprod", torch.cumprod(1 - betas, dim=0), persistent=False)
        self.set_timesteps(num_train_timesteps)

    @property
    def is_stochastic(self) -> bool:
        """Whether :meth:`step` adds noise (before the last step)."""
        return True

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device | None = None) -> None:
        """Choose the steps to visit.

        Args:
            num_inference_steps: number of kept steps, 1 to T.
            device: unused: the steps stay on the CPU, where reading them costs no synchronisation.

        Raises:
            ValueError: ``num_inference_steps`` outside 1..T.
        """
        total = self.num_train_timesteps
        if not 1 <= num_inference_steps <= total:
            raise ValueError(f"num_inference_steps must lie in 1..{total}, found {num_inference_steps}.")
        if self.timestep_spacing == TimestepSpacing.TRAILING:
            kept = torch.arange(num_inference_steps, dtype=torch.float64) * (total / num_inference_steps)
            kept = (total - 1 - kept).round()
        else:
            kept = torch.linspace(total - 1, 0, num_inference_steps, dtype=torch.float64).round()
        self.num_inference_steps = num_inference_steps
        self.timesteps = kept.long()

    def for_trajectory(self) -> RespacedScheduler:
        """Return a scheduler for one trajectory.

        It shares the tables and the kept steps but has a memory of its own, empty at first, so that several threads or
        batches may step at the same time.
        """
        return copy.copy(self)

    def add_noise(self, original_samples: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Diffuse clean masks: ``sqrt(ab_t) * x0 + sqrt(1 - ab_t) * noise`` (eq. 3 of arXiv 2112.00390).

        Args:
            original_samples: clean masks ``[B, C, *spatial]`` in [-1, 1].
            noise: standard normal, of the same shape.
            timesteps: int64 ``[B]``.

        Returns:
            Noisy masks, of the same shape and type as ``original_samples``.
        """
        signal, sigma = self._signal_and_noise(timesteps, original_samples)
        return signal * original_samples + sigma * noise

    def get_velocity(self, sample: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Return the target of v-prediction, ``sqrt(ab_t) * noise - sqrt(1 - ab_t) * x0``; arguments as above."""
        signal, sigma = self._signal_and_noise(timesteps, sample)
        return signal * noise - sigma * sample

    @abstractmethod
    def step(
        self,
        model_output: torch.Tensor,
        timestep: int,
        sample: torch.Tensor,
        noise: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Go from ``timestep`` to the previous kept one.

        Args:
            model_output: output of the network for ``sample`` at ``timestep``.
            timestep: a member of :attr:`timesteps`.
            sample: the noisy mask at ``timestep``, in the same shape.
            noise: standard normal of the same shape, for samplers that add noise. Default: drawn from ``generator``.
            generator: source of the noise when none is given.

        Returns:
            The noisy mask at the previous kept step, and the estimate of the clean mask.

        Raises:
            ValueError: ``timestep`` is not one of the kept steps.
        """

    def predict_original_sample(self, model_output: torch.Tensor, timestep: int, sample: torch.Tensor) -> torch.Tensor:
        """Estimate the clean mask from the network's output, clamped if ``clip_sample``; arguments as :meth:`step`."""
        alpha_bar = float(self.alphas_cumprod[timestep])
        if self.prediction_type == PredictionType.EPSILON:
            x0 = (sample - (1 - alpha_bar) ** 0.5 * model_output) / alpha_bar**0.5
        elif self.prediction_type == PredictionType.V_PREDICTION:
            x0 = alpha_bar**0.5 * sample - (1 - alpha_bar) ** 0.5 * model_output
        else:
            x0 = model_output
        return x0.clamp(-1, 1) if self.clip_sample else x0

    def alpha_bars(self, timestep: int) -> tuple[float, float]:
        """Return alpha-bar at ``timestep`` and at the previous kept step (1 after the last).

        Raises:
            ValueError: ``timestep`` is not one of the kept steps.
        """
        kept = self.timesteps.tolist()
        if int(timestep) not in kept:
            raise ValueError(f"timestep {int(timestep)} is not one of the kept steps {kept}; see set_timesteps.")
        position = kept.index(int(timestep))
        previous = float(self.alphas_cumprod[kept[position + 1]]) if position + 1 < len(kept) else 1.0
        return float(self.alphas_cumprod[int(timestep)]), previous

    def _signal_and_noise(self, timesteps: torch.Tensor, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Look up sqrt(ab_t) and sqrt(1 - ab_t), shaped to multiply ``like``; the square roots are float64."""
        table = self.alphas_cumprod.to(like.device)
        alpha_bar = table[timesteps.to(like.device)].reshape(-1, *[1] * (like.ndim - 1))
        return alpha_bar.sqrt().to(like.dtype), (1 - alpha_bar).sqrt().to(like.dtype)


def draw_noise(sample: torch.Tensor, noise: torch.Tensor | None, generator: torch.Generator | None) -> torch.Tensor:
    """Return the given noise, or standard normal noise shaped like ``sample``."""
    if noise is not None:
        return noise
    return torch.randn(sample.shape, generator=generator, device=sample.device, dtype=sample.dtype)
