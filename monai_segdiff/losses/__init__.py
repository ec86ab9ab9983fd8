# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from .mask_diffusion_loss import MaskDiffusionLoss
from .mask_prior_loss import MaskPriorLoss

__all__ = ["MaskDiffusionLoss", "MaskPriorLoss"]
