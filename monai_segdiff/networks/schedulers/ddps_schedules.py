# SPDX-License-Identifier: Apache-2.0
"""The noise schedules of DDPS, registered in MONAI's store: they give the probability to keep a label."""

from __future__ import annotations

import torch
from monai.networks.schedulers import NoiseSchedules

__all__ = ["ddps_cosine", "ddps_linear"]

KEEP_FIRST = 0.99999
KEEP_LAST = 9e-6


@NoiseSchedules.add_def("ddps_linear", "Keep probability of a label falls linearly, from 0.99999 to 9e-6")
def ddps_linear(num_train_timesteps: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Linear in the cumulative keep probability, the default of DDPS (arXiv 2306.01721).

    ``abar_n = 0.99999 + n / (T - 1) * (9e-6 - 0.99999)`` for n = 0..T-1.

    Args:
        num_train_timesteps: T, at least 2.

    Returns:
        Betas, alphas and their cumulative product alpha-bar, each float64 ``[T]``.

    Raises:
        ValueError: T below 2.

    Example:
        >>> betas, alphas, alphas_cumprod = ddps_linear(20)
        >>> [round(float(keep), 6) for keep in (alphas_cumprod[0], alphas_cumprod[5], alphas_cumprod[19])]
        [0.99999, 0.736837, 9e-06]
    """
    levels = _levels(num_train_timesteps)
    return _with_steps(KEEP_FIRST + levels / (num_train_timesteps - 1) * (KEEP_LAST - KEEP_FIRST))


@NoiseSchedules.add_def("ddps_cosine", "Keep probability of a label falls as a squared cosine, from 0.99999")
def ddps_cosine(num_train_timesteps: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The cosine schedule of DDPS (arXiv 2306.01721), which removes most labels early.

    ``abar_n = (cos((n + T) / T * pi / 2) + 1)^2 * (0.99999 - 9e-6) + 9e-6`` for n = 0..T-1.

    The formula would reach 9e-6 at n = T, one level after the last: alpha-bar of the last level is 1.9e-5 at T = 20,
    1.6e-4 at T = 10 and 2.4e-3 at T = 5. With few levels prefer ``"ddps_linear"``.

    Args:
        num_train_timesteps: T, at least 2.

    Returns:
        Betas, alphas and their cumulative product alpha-bar, each float64 ``[T]``.

    Raises:
        ValueError: T below 2.

    Example:
        >>> betas, alphas, alphas_cumprod = ddps_cosine(20)
        >>> [round(float(keep), 6) for keep in (alphas_cumprod[0], alphas_cumprod[5], alphas_cumprod[19])]
        [0.99999, 0.381082, 1.9e-05]
    """
    angles = (_levels(num_train_timesteps) + num_train_timesteps) / num_train_timesteps * (torch.pi / 2)
    return _with_steps((angles.cos() + 1) ** 2 * (KEEP_FIRST - KEEP_LAST) + KEEP_LAST)


def _levels(num_train_timesteps: int) -> torch.Tensor:
    """Return 0..T-1 as float64."""
    if num_train_timesteps < 2:
        raise ValueError(f"num_train_timesteps must be at least 2, found {num_train_timesteps}.")
    return torch.arange(num_train_timesteps, dtype=torch.float64)


def _with_steps(alphas_cumprod: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Add the betas and alphas of the single steps, ``alpha_n = abar_n / abar_{n-1}`` with ``abar_{-1} = 1``."""
    alphas = alphas_cumprod.clone()
    alphas[1:] /= alphas_cumprod[:-1]
    return 1 - alphas, alphas, alphas_cumprod
