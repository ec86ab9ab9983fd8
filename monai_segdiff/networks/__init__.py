# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from .blocks import RRDB, ResidualDenseBlock
from .nets import DenseEncoder, RRDBEncoder, SegDiffUNet, convert_released_state_dict
from .schedulers import RespacedDDIMScheduler, RespacedDDPMScheduler, RespacedDPMSolverScheduler, RespacedScheduler

__all__ = [
    "DenseEncoder",
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
