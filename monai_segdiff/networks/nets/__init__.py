# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from .dense_encoder import DenseEncoder
from .released_checkpoint import convert_released_state_dict
from .rrdb_encoder import RRDBEncoder
from .segdiff_unet import SegDiffUNet

__all__ = ["DenseEncoder", "RRDBEncoder", "SegDiffUNet", "convert_released_state_dict"]
