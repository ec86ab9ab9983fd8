# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from .cityscapes_dataset import prepare_cityscapes_dataset
from .command_line import check_command_line, flag, next_command
from .mask_prior_prepare_batch import MaskPriorPrepareBatch
from .processes import start_processes, stop_processes
from .publish_weights import publish_weights
from .run_folder import prepare_run_folder
from .sample_dataset import prepare_sample_dataset
from .segdiff_prepare_batch import SegDiffPrepareBatch

__all__ = [
    "MaskPriorPrepareBatch",
    "SegDiffPrepareBatch",
    "check_command_line",
    "flag",
    "next_command",
    "prepare_cityscapes_dataset",
    "prepare_run_folder",
    "prepare_sample_dataset",
    "publish_weights",
    "start_processes",
    "stop_processes",
]
