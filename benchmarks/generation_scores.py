# SPDX-License-Identifier: Apache-2.0
"""How good the mean of some generations is, and how much the generations differ."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np

from monai_segdiff import bootstrap_interval, segmentation_scores
from monai_segdiff.metrics.boundary_f import boundary_counts, boundary_f_of_counts

from .calibration import Calibration

__all__ = ["GenerationScores", "overlap_counts"]

SCORES = ("dice", "iou", "boundary_f")
SPREADS = ("spread", "pairwise_dice")
BOUNDARY_DISTANCE = 5


def overlap_counts(prediction: np.ndarray, truth: np.ndarray) -> tuple[int, int, int]:
    """Return the numbers of true positive, false positive and false negative pixels of two boolean masks."""
    hits = (prediction & truth, prediction & ~truth, ~prediction & truth)
    return tuple(int(np.count_nonzero(hit)) for hit in hits)  # type: ignore[return-value]


class GenerationScores:
    """Scores a set of images, each with its generations.

    The prediction is the mean of an image's generations; a pixel is foreground where it exceeds the threshold. Dice,
    IoU and boundary F are means over images, with 95 % bootstrap intervals over images; calibration is that of the
    pooled pixels, see :class:`~benchmarks.calibration.Calibration`. With several generations also

    - *spread*: the standard deviation of the generations' probabilities (of the population), mean over pixels;
    - *pairwise Dice*: Dice between two thresholded generations, mean over all pairs (two empty masks: 1);

    both as means over images, and None with one generation.

    Args:
        threshold: probability to exceed.

    Example:
        >>> scores = GenerationScores()
        >>> scores.add("a", np.ones((1, 4, 4)), np.ones((4, 4), dtype=bool))
        >>> scores.summary()["dice"]["value"]
        1.0
    """

    def __init__(self, threshold: float = 0.5) -> None:
        self.threshold = threshold
        self.images: list[dict[str, Any]] = []
        self._calibration = Calibration()

    def add(self, name: str, generations: np.ndarray, truth: np.ndarray) -> None:
        """Score an image.

        Args:
            name: name of the image.
            generations: probabilities of the single generations, ``[N, H, W]``.
            truth: boolean ``[H, W]``.
        """
        # In float64, so that the mean of equal float32 numbers is that number and never crosses the threshold.
        generations = generations.astype(np.float64)
        mean = generations.mean(0)
        predicted = mean > self.threshold
        overlap = segmentation_scores(*overlap_counts(predicted, truth))
        boundary = boundary_counts(predicted, truth, BOUNDARY_DISTANCE)
        several = len(generations) > 1
        row = {
            "name": name,
            "dice": overlap["dice"],
            "iou": overlap["iou"],
            "boundary_f": float(boundary_f_of_counts(*boundary)),
            "spread": float(generations.std(0).mean()) if several else None,
            "pairwise_dice": _pairwise_dice(generations > self.threshold) if several else None,
        }
        self.images.append(row)
        self._calibration.add(mean, truth)

    def summary(self) -> dict[str, Any]:
        """Return ``{score: {"value", "interval"}}`` for the scores, the other measures as numbers, and the images."""
        summary: dict[str, Any] = {}
        for score in SCORES:
            values = [row[score] for row in self.images]
            summary[score] = {"value": sum(values) / len(values), "interval": bootstrap_interval(values)}
        for spread in SPREADS:
            values = [row[spread] for row in self.images]
            summary[spread] = None if None in values else sum(values) / len(values)
        return {**summary, **self._calibration.scores(), "images": self.images}


def _pairwise_dice(masks: np.ndarray) -> float:
    dice = [segmentation_scores(*overlap_counts(a, b))["dice"] for a, b in combinations(masks, 2)]
    return sum(dice) / len(dice)
