# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from .base_segmentor import BaseSegmentor
from .dense_encoder import DenseEncoder
from .mask_prior_unet import MaskPriorUNet
from .released_checkpoint import convert_released_state_dict
from .rrdb_encoder import RRDBEncoder
from .segdiff_unet import SegDiffUNet

__all__ = [
    "BaseSegmentor",
    "DenseEncoder",
    "MaskPriorUNet",
    "RRDBEncoder",
    "SegDiffUNet",
    "convert_released_state_dict",
]
