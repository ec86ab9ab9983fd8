# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from .boundary_scorer import BoundaryScorer
from .calibration_scorer import CalibrationScorer
from .image_scorer import ImageScorer, Measurement
from .instance_scorer import InstanceScorer
from .overlap_scorer import OverlapScorer
from .uncertainty_scorer import UncertaintyScorer

__all__ = [
    "BoundaryScorer",
    "CalibrationScorer",
    "ImageScorer",
    "InstanceScorer",
    "Measurement",
    "OverlapScorer",
    "UncertaintyScorer",
]
