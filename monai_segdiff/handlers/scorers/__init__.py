# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from .boundary_scorer import BoundaryScorer
from .calibration_scorer import CalibrationScorer
from .class_calibration_scorer import ClassCalibrationScorer
from .class_overlap_scorer import ClassOverlapScorer
from .image_scorer import ImageScorer, Measurement
from .instance_scorer import InstanceScorer
from .overlap_scorer import OverlapScorer
from .surface_scorer import SurfaceScorer
from .uncertainty_scorer import UncertaintyScorer

__all__ = [
    "BoundaryScorer",
    "CalibrationScorer",
    "ClassCalibrationScorer",
    "ClassOverlapScorer",
    "ImageScorer",
    "InstanceScorer",
    "Measurement",
    "OverlapScorer",
    "SurfaceScorer",
    "UncertaintyScorer",
]
