# SPDX-License-Identifier: Apache-2.0
"""Whether probabilities mean what they say."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...metrics.calibration_score import calibration_counts, calibration_scores
from ...visualize.reliability_diagram import draw_reliability_diagram
from .image_scorer import ImageScorer, Measurement, binary_mask, map_of, same_shape

__all__ = ["CalibrationScorer"]


class CalibrationScorer(ImageScorer):
    """Calibration of the probability, and ``reliability.png`` of all pixels.

    Both scores are those of :func:`monai_segdiff.metrics.calibration_scores`: the paper's, and the expected calibration
    error.

    Args:
        num_bins: bins of the probability; the paper has 10.
        probability_key: key of the probability, in [0, 1].
        label_key: key of the true mask.
    """

    headings = {"paper_calibration_score": "calibration", "expected_calibration_error": "ECE"}
    axis_labels = ("Predicted probability of foreground", "Share of foreground")

    def __init__(self, num_bins: int = 10, probability_key: str = "probability", label_key: str = "label") -> None:
        self.num_bins = num_bins
        self.probability_key = probability_key
        self.label_key = label_key

    def measure(self, item: Mapping[Hashable, Any]) -> Measurement:
        """Count pixels, probability and foreground in each bin."""
        counts = self._count(item)
        return Measurement({name: float(score) for name, score in self.pool(*counts).items()}, counts)

    def _count(self, item: Mapping[Hashable, Any]) -> np.ndarray:
        probability, truth = map_of(item, self.probability_key)[0].numpy(), binary_mask(item, self.label_key)
        same_shape(self.probability_key, probability, self.label_key, truth)
        return calibration_counts(probability, truth, self.num_bins).ravel()

    def _scores(self, counts: np.ndarray) -> dict[str, float]:
        return calibration_scores(counts.reshape(self.num_bins, 3))

    def pool(self, *counts: np.ndarray) -> dict[str, np.ndarray]:
        """Scores of the pixels of several images together."""
        stacked = np.stack(counts, axis=-1)
        rows = [self._scores(row) for row in stacked.reshape(-1, len(counts))]
        return {name: np.array([row[name] for row in rows]).reshape(stacked.shape[:-1]) for name in self.headings}

    def draw(self, folder: Path, counts: np.ndarray) -> None:
        """Draw the reliability of all pixels."""
        total = counts.sum(axis=0)[: 3 * self.num_bins].reshape(self.num_bins, 3)
        draw_reliability_diagram(folder / "reliability.png", {"all pixels": total}, axis_labels=self.axis_labels)
