# SPDX-License-Identifier: Apache-2.0
"""Overlap and area of two masks."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np

from ...metrics.segmentation_scores import SCORE_NAMES, score_of_counts
from .image_scorer import ImageScorer, Measurement, binary_mask, same_shape

__all__ = ["OverlapScorer", "overlap_counts"]


def overlap_counts(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Count pixels of two boolean masks that are truly foreground, falsely foreground, falsely background, [3]."""
    # Counted as integers: MONAI's get_confusion_matrix sums float32, which is inexact above 2^24 voxels.
    hits = (predicted & truth, predicted & ~truth, ~predicted & truth)
    return np.array([np.count_nonzero(hit) for hit in hits])


class OverlapScorer(ImageScorer):
    """Dice, IoU, precision, recall and area ratio of the foreground.

    Empty masks: :func:`monai_segdiff.metrics.segmentation_scores`. Dice is the paper's F1, and the area ratio is what
    the released SegDiff code calls WCov.

    Args:
        pred_key: key of the predicted mask.
        label_key: key of the true mask.
    """

    headings = {
        "dice": "Dice",
        "iou": "IoU",
        "precision": "precision",
        "recall": "recall",
        "area_ratio": "area ratio",
    }
    shown_counts = ("tp", "fp", "fn")

    def __init__(self, pred_key: str = "pred", label_key: str = "label") -> None:
        self.pred_key = pred_key
        self.label_key = label_key

    def measure(self, item: Mapping[Hashable, Any]) -> Measurement:
        """Count pixels that are truly foreground, falsely foreground, falsely background."""
        predicted, truth = binary_mask(item, self.pred_key), binary_mask(item, self.label_key)
        same_shape(self.pred_key, predicted, self.label_key, truth)
        counts = overlap_counts(predicted, truth)
        return Measurement({name: float(score) for name, score in self.pool(*counts).items()}, counts)

    def pool(self, *counts: np.ndarray) -> dict[str, np.ndarray]:
        """Scores of summed counts."""
        return {name: score_of_counts(name, *counts) for name in SCORE_NAMES}
