# SPDX-License-Identifier: Apache-2.0
"""Metrics: overlap, outlines, objects, calibration and uncertainty, with intervals."""

from __future__ import annotations

from .aggregated_jaccard import (
    AggregatedJaccardMetric,
    aggregated_jaccard_counts,
    aggregated_jaccard_of_counts,
    compute_aggregated_jaccard,
)
from .area_ratio import AreaRatioMetric, compute_area_ratio
from .boundary_f import BoundaryFMetric, compute_boundary_f
from .boundary_iou import BoundaryIoUMetric, compute_boundary_iou
from .calibration_score import (
    CalibrationScoreMetric,
    calibration_counts,
    calibration_scores,
    compute_calibration_score,
)
from .class_calibration import class_calibration_counts, class_calibration_scores
from .error_detection import ErrorDetectionMetric, compute_error_detection
from .paired_bootstrap import PairedBootstrap, paired_bootstrap
from .panoptic_quality import (
    InstancePanopticQualityMetric,
    compute_instance_panoptic_quality,
    panoptic_counts,
    panoptic_quality_of_counts,
)
from .risk_coverage import RiskCoverageMetric, area_under_risk_coverage, oracle_risk, risk_coverage_curve
from .segmentation_scores import bootstrap_interval, segmentation_scores
from .temperature_fit import fit_temperature, negative_log_likelihood
from .weighted_coverage import (
    WeightedCoverageMetric,
    compute_weighted_coverage,
    weighted_coverage_counts,
    weighted_coverage_of_counts,
)

__all__ = [
    "AggregatedJaccardMetric",
    "AreaRatioMetric",
    "BoundaryFMetric",
    "BoundaryIoUMetric",
    "CalibrationScoreMetric",
    "ErrorDetectionMetric",
    "InstancePanopticQualityMetric",
    "PairedBootstrap",
    "RiskCoverageMetric",
    "WeightedCoverageMetric",
    "aggregated_jaccard_counts",
    "aggregated_jaccard_of_counts",
    "area_under_risk_coverage",
    "bootstrap_interval",
    "calibration_counts",
    "calibration_scores",
    "class_calibration_counts",
    "class_calibration_scores",
    "compute_aggregated_jaccard",
    "compute_area_ratio",
    "compute_boundary_f",
    "compute_boundary_iou",
    "compute_calibration_score",
    "compute_error_detection",
    "compute_instance_panoptic_quality",
    "compute_weighted_coverage",
    "fit_temperature",
    "negative_log_likelihood",
    "oracle_risk",
    "paired_bootstrap",
    "panoptic_counts",
    "panoptic_quality_of_counts",
    "risk_coverage_curve",
    "segmentation_scores",
    "weighted_coverage_counts",
    "weighted_coverage_of_counts",
]
