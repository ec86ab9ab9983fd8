# SPDX-License-Identifier: Apache-2.0
"""Whether probabilities of several classes mean what they say."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np

from ...metrics.class_calibration import class_calibration_counts, class_calibration_scores
from .calibration_scorer import CalibrationScorer
from .image_scorer import class_map, map_of, same_shape

__all__ = ["ClassCalibrationScorer"]


class ClassCalibrationScorer(CalibrationScorer):
    """Calibration of the most probable class, likelihood and Brier score, and ``reliability.png`` of all pixels.

    The scores are those of :func:`monai_segdiff.metrics.class_calibration_scores`.

    Args:
        num_classes: K, background included.
        num_bins: bins of the confidence.
        probability_key: key of the probabilities, ``[K, *spatial]``, which sum to 1.
        label_key: key of the true classes.
    """

    headings = {"expected_calibration_error": "ECE", "negative_log_likelihood": "NLL", "brier_score": "Brier"}
    axis_labels = ("Probability of the most probable class", "Share of right pixels")

    def __init__(
        self, num_classes: int, num_bins: int = 10, probability_key: str = "probability", label_key: str = "label"
    ) -> None:
        super().__init__(num_bins, probability_key, label_key)
        self.num_classes = num_classes

    def _count(self, item: Mapping[Hashable, Any]) -> np.ndarray:
        probability = map_of(item, self.probability_key, self.num_classes).numpy()
        truth = class_map(item, self.label_key, self.num_classes)
        same_shape(self.probability_key, probability[0], self.label_key, truth)
        return class_calibration_counts(probability, truth, self.num_bins)

    def _scores(self, counts: np.ndarray) -> dict[str, float]:
        return class_calibration_scores(counts)
