# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from .autocast_inferer import AutocastInferer
from .diffusion_segmentor import DiffusionSegmentor
from .generation_statistics import GenerationStatistics
from .generation_stopping import GenerationStopping
from .mask_prior_inferer import MaskPriorInferer
from .segdiff_inferer import SegDiffInferer
from .segmentor_inferer import SegmentorInferer
from .uncertainty_inferer import UncertaintyInferer
from .window_plan import WindowPlan

__all__ = [
    "AutocastInferer",
    "DiffusionSegmentor",
    "GenerationStatistics",
    "GenerationStopping",
    "MaskPriorInferer",
    "SegDiffInferer",
    "SegmentorInferer",
    "UncertaintyInferer",
    "WindowPlan",
]
