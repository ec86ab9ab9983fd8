# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from .clean_mask_loss import CleanMaskLoss

__all__ = ["CleanMaskLoss"]
