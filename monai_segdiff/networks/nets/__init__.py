# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from .released_checkpoint import convert_released_state_dict
from .rrdb_encoder import RRDBEncoder
from .segdiff_unet import SegDiffUNet

__all__ = ["RRDBEncoder", "SegDiffUNet", "convert_released_state_dict"]
