# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from .atomic_save import atomic_save
from .best_model_saver import BestModelSaver
from .divergence_guard import DivergenceGuard
from .evaluation_report import EvaluationReport
from .gradient_clipping import GradientClipping
from .progress_bar import ProgressBar
from .scorers import (
    BoundaryScorer,
    CalibrationScorer,
    ImageScorer,
    InstanceScorer,
    Measurement,
    OverlapScorer,
    UncertaintyScorer,
)
from .strict_checkpoint_loader import StrictCheckpointLoader, load_weights
from .training_checkpoint import TrainingCheckpoint
from .training_curves import TrainingCurves
from .weight_average import WeightAverage

__all__ = [
    "BestModelSaver",
    "BoundaryScorer",
    "CalibrationScorer",
    "DivergenceGuard",
    "EvaluationReport",
    "GradientClipping",
    "ImageScorer",
    "InstanceScorer",
    "Measurement",
    "OverlapScorer",
    "ProgressBar",
    "StrictCheckpointLoader",
    "TrainingCheckpoint",
    "TrainingCurves",
    "UncertaintyScorer",
    "WeightAverage",
    "atomic_save",
    "load_weights",
]
