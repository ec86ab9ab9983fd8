# SPDX-License-Identifier: Apache-2.0
"""Denoising diffusion implicit sampling in few steps."""

from __future__ import annotations

import torch

from .respaced import RespacedScheduler, draw_noise

__all__ = ["RespacedDDIMScheduler"]


class RespacedDDIMScheduler(RespacedScheduler):
    """DDIM (arXiv 2010.02502, eq. 12) between the steps that are really kept.

    ``x_prev = sqrt(ab_prev) x0 + sqrt(1 - ab_prev - sigma^2) eps + sigma z`` with
    ``sigma = eta sqrt((1 - ab_prev) / (1 - ab_t)) sqrt(1 - ab_t / ab_prev)`` (eq. 16).

    Args:
        eta: 0 is deterministic after the first noise; 1 is ancestral sampling with the posterior variance.
        kwargs: see :class:`RespacedScheduler`.

    Raises:
        ValueError: ``eta`` outside 0..1.

    Example:
        >>> scheduler = RespacedDDIMScheduler(num_train_timesteps=100, timestep_spacing="trailing")
        >>> scheduler.set_timesteps(5)
        >>> scheduler.timesteps.tolist()
        [99, 79, 59, 39, 19]
    """

    def __init__(
        self,
        num_train_timesteps: int = 100,
        schedule: str = "segdiff_linear_beta",
        eta: float = 0.0,
        **kwargs: object,
    ) -> None:
        super().__init__(num_train_timesteps, schedule, **kwargs)  # type: ignore[arg-type]
        if not 0.0 <= eta <= 1.0:
            raise ValueError(f"eta must lie in [0, 1], found {eta}.")
        self.eta = eta

    @property
    def is_stochastic(self) -> bool:
        return self.eta > 0

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
            return x0, x0
        # From x0, not from the network's output: consistent with x0 also when it was clamped.
        epsilon = (sample - alpha_bar**0.5 * x0) / (1 - alpha_bar) ** 0.5
        sigma = self.eta * ((1 - previous) / (1 - alpha_bar)) ** 0.5 * (1 - alpha_bar / previous) ** 0.5
        mean = previous**0.5 * x0 + (1 - previous - sigma**2) ** 0.5 * epsilon
        if sigma == 0:
            return mean, x0
        return mean + sigma * draw_noise(sample, noise, generator), x0
