# SPDX-License-Identifier: Apache-2.0
"""SegDiff's noise schedule, registered in MONAI's store so that any MONAI scheduler can name it."""

from __future__ import annotations

import torch
from monai.networks.schedulers import NoiseSchedules

__all__ = ["segdiff_linear_beta"]

REFERENCE_STEPS = 1000


@NoiseSchedules.add_def("segdiff_linear_beta", "Linear betas, scaled by 1000 / T so that any T ends in pure noise")
def segdiff_linear_beta(num_train_timesteps: int, beta_start: float = 1e-4, beta_end: float = 2e-2) -> torch.Tensor:
    """Linear betas whose range is scaled by ``1000 / T``, as the released SegDiff code has them.

    With T = 100 the betas run from 0.001 to 0.2 and the last alpha-bar is 2.04e-5. Without the scaling it would be
    0.36, far from pure noise.

    Args:
        num_train_timesteps: T, at least 21: at 20 the last beta would be 1.
        beta_start: first beta at T = 1000.
        beta_end: last beta at T = 1000.

    Returns:
        Betas, float64 ``[T]``.

    Raises:
        ValueError: T too small for the range; the message names the smallest T that works.
    """
    scale = REFERENCE_STEPS / num_train_timesteps
    if beta_end * scale >= 1:
        smallest = int(REFERENCE_STEPS * beta_end) + 1
        raise ValueError(
            f"num_train_timesteps={num_train_timesteps} makes the last beta {beta_end * scale:.3g}; it must be below "
            f"1: use at least {smallest} steps."
        )
    return torch.linspace(beta_start * scale, beta_end * scale, num_train_timesteps, dtype=torch.float64)
