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
    ClassCalibrationScorer,
    ClassOverlapScorer,
    ImageScorer,
    InstanceScorer,
    Measurement,
    OverlapScorer,
    SurfaceScorer,
    UncertaintyScorer,
)
from .single_step_stage import SingleStepStage
from .strict_checkpoint_loader import StrictCheckpointLoader, load_weights
from .training_checkpoint import TrainingCheckpoint, checkpoint_epoch
from .training_curves import TrainingCurves
from .weight_average import WeightAverage

__all__ = [
    "BestModelSaver",
    "BoundaryScorer",
    "CalibrationScorer",
    "ClassCalibrationScorer",
    "ClassOverlapScorer",
    "DivergenceGuard",
    "EvaluationReport",
    "GradientClipping",
    "ImageScorer",
    "InstanceScorer",
    "Measurement",
    "OverlapScorer",
    "ProgressBar",
    "SingleStepStage",
    "StrictCheckpointLoader",
    "SurfaceScorer",
    "TrainingCheckpoint",
    "TrainingCurves",
    "UncertaintyScorer",
    "WeightAverage",
    "atomic_save",
    "checkpoint_epoch",
    "load_weights",
]
