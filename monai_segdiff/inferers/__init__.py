# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from .diffusion_segmentor import DiffusionSegmentor
from .generation_statistics import GenerationStatistics
from .segdiff_inferer import SegDiffInferer

__all__ = ["DiffusionSegmentor", "GenerationStatistics", "SegDiffInferer"]
