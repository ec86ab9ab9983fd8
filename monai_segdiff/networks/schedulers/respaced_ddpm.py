# SPDX-License-Identifier: Apache-2.0
"""Ancestral sampling over all or some of the training steps."""

from __future__ import annotations

import torch
from monai.utils import StrEnum, look_up_option

from .respaced import RespacedScheduler, draw_noise

__all__ = ["RespacedDDPMScheduler"]


class VarianceType(StrEnum):
    """Variance of a reverse step."""

    FIXED_LARGE = "fixed_large"
    FIXED_SMALL = "fixed_small"


class RespacedDDPMScheduler(RespacedScheduler):
    """The sampler of the released SegDiff code.

    With beta rebuilt from the kept steps, ``beta = 1 - ab_t / ab_prev``, one step draws from a normal distribution of
    mean ``beta sqrt(ab_prev) / (1 - ab_t) * x0 + (1 - ab_prev) sqrt(1 - beta) / (1 - ab_t) * x_t`` (the posterior of
    eq. 8 and 9 of arXiv 2112.00390, x0 estimated by the network). The last step adds no noise.

    Args:
        variance_type: ``"fixed_large"`` is beta, as released; ``"fixed_small"`` is the posterior variance
            ``beta (1 - ab_prev) / (1 - ab_t)``, as the paper seems to print.
        kwargs: see :class:`RespacedScheduler`.

    Example:
        >>> scheduler = RespacedDDPMScheduler(num_train_timesteps=100)
        >>> scheduler.set_timesteps(10)
        >>> scheduler.timesteps.tolist()
        [99, 88, 77, 66, 55, 44, 33, 22, 11, 0]
    """

    def __init__(
        self,
        num_train_timesteps: int = 100,
        schedule: str = "segdiff_linear_beta",
        variance_type: str = VarianceType.FIXED_LARGE,
        **kwargs: object,
    ) -> None:
        super().__init__(num_train_timesteps, schedule, **kwargs)  # type: ignore[arg-type]
        self.variance_type = look_up_option(variance_type, VarianceType)

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
        beta = 1 - alpha_bar / previous
        mean = (beta * previous**0.5 / (1 - alpha_bar)) * x0
        mean = mean + ((1 - previous) * (1 - beta) ** 0.5 / (1 - alpha_bar)) * sample
        if previous == 1.0:
            return mean, x0
        variance = beta if self.variance_type == VarianceType.FIXED_LARGE else beta * (1 - previous) / (1 - alpha_bar)
        return mean + variance**0.5 * draw_noise(sample, noise, generator), x0
