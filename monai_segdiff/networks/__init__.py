# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from .blocks import RRDB, ResidualDenseBlock
from .nets import (
    BaseSegmentor,
    DenseEncoder,
    MaskPriorUNet,
    RRDBEncoder,
    SegDiffUNet,
    convert_released_state_dict,
)
from .schedulers import (
    CategoricalScheduler,
    RespacedDDIMScheduler,
    RespacedDDPMScheduler,
    RespacedDPMSolverScheduler,
    RespacedScheduler,
)

__all__ = [
    "BaseSegmentor",
    "CategoricalScheduler",
    "DenseEncoder",
    "MaskPriorUNet",
    "RRDB",
    "RRDBEncoder",
    "ResidualDenseBlock",
    "RespacedDDIMScheduler",
    "RespacedDDPMScheduler",
    "RespacedDPMSolverScheduler",
    "RespacedScheduler",
    "SegDiffUNet",
    "convert_released_state_dict",
]
