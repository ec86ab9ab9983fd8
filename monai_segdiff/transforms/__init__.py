# SPDX-License-Identifier: Apache-2.0
"""Transforms: colour augmentation, masks from probabilities, result pictures."""

from __future__ import annotations

from .check_same_grid import CheckSameGridD, CheckSameGridd, CheckSameGridDict
from .check_same_size import CheckSameSizeD, CheckSameSized, CheckSameSizeDict
from .color_jitter import RandColorJitter, RandColorJitterD, RandColorJitterd, RandColorJitterDict
from .probability_to_instances import (
    ProbabilityToInstances,
    ProbabilityToInstancesD,
    ProbabilityToInstancesd,
    ProbabilityToInstancesDict,
)
from .probability_to_mask import ProbabilityToMask, ProbabilityToMaskD, ProbabilityToMaskd, ProbabilityToMaskDict
from .resize_to_match import ResizeToMatch, ResizeToMatchD, ResizeToMatchd, ResizeToMatchDict
from .save_overlay import SaveOverlay, SaveOverlayD, SaveOverlayd, SaveOverlayDict
from .save_uncertainty import SaveUncertainty, SaveUncertaintyD, SaveUncertaintyd, SaveUncertaintyDict
from .split_statistics import SplitStatistics, SplitStatisticsD, SplitStatisticsd, SplitStatisticsDict
from .stain_jitter import RandStainJitter, RandStainJitterD, RandStainJitterd, RandStainJitterDict
from .temperature_scaling import TemperatureScaling, TemperatureScalingD, TemperatureScalingd, TemperatureScalingDict

__all__ = [
    "CheckSameGridD",
    "CheckSameGridDict",
    "CheckSameGridd",
    "CheckSameSizeD",
    "CheckSameSizeDict",
    "CheckSameSized",
    "ProbabilityToInstances",
    "ProbabilityToInstancesD",
    "ProbabilityToInstancesDict",
    "ProbabilityToInstancesd",
    "ProbabilityToMask",
    "ProbabilityToMaskD",
    "ProbabilityToMaskDict",
    "ProbabilityToMaskd",
    "RandColorJitter",
    "RandColorJitterD",
    "RandColorJitterDict",
    "RandColorJitterd",
    "RandStainJitter",
    "RandStainJitterD",
    "RandStainJitterDict",
    "RandStainJitterd",
    "ResizeToMatch",
    "ResizeToMatchD",
    "ResizeToMatchDict",
    "ResizeToMatchd",
    "SaveOverlay",
    "SaveOverlayD",
    "SaveOverlayDict",
    "SaveOverlayd",
    "SaveUncertainty",
    "SaveUncertaintyD",
    "SaveUncertaintyDict",
    "SaveUncertaintyd",
    "SplitStatistics",
    "SplitStatisticsD",
    "SplitStatisticsDict",
    "SplitStatisticsd",
    "TemperatureScaling",
    "TemperatureScalingD",
    "TemperatureScalingDict",
    "TemperatureScalingd",
]
