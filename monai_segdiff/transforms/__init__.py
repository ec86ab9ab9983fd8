# SPDX-License-Identifier: Apache-2.0
"""Transforms: colour augmentation, masks from probabilities, result pictures."""

from __future__ import annotations

from .check_same_size import CheckSameSizeD, CheckSameSized, CheckSameSizeDict
from .color_jitter import RandColorJitter, RandColorJitterD, RandColorJitterd, RandColorJitterDict
from .probability_to_mask import ProbabilityToMask, ProbabilityToMaskD, ProbabilityToMaskd, ProbabilityToMaskDict
from .save_overlay import SaveOverlay, SaveOverlayD, SaveOverlayd, SaveOverlayDict

__all__ = [
    "CheckSameSizeD",
    "CheckSameSizeDict",
    "CheckSameSized",
    "ProbabilityToMask",
    "ProbabilityToMaskD",
    "ProbabilityToMaskDict",
    "ProbabilityToMaskd",
    "RandColorJitter",
    "RandColorJitterD",
    "RandColorJitterDict",
    "RandColorJitterd",
    "SaveOverlay",
    "SaveOverlayD",
    "SaveOverlayDict",
    "SaveOverlayd",
]
