# SPDX-License-Identifier: Apache-2.0
"""How good the probabilities of some images are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from monai_segdiff import bootstrap_interval, segmentation_scores
from monai_segdiff.metrics.boundary_f import boundary_counts, boundary_f_of_counts
from monai_segdiff.metrics.calibration_score import calibration_counts, calibration_scores

__all__ = ["SCORES", "image_scores", "overlap_counts", "pooled_calibration", "pooled_scores"]

SCORES = ("dice", "iou", "boundary_f")
BOUNDARY_DISTANCE = 5


def overlap_counts(prediction: np.ndarray, truth: np.ndarray) -> tuple[int, int, int]:
    """Return the numbers of true positive, false positive and false negative pixels of two boolean masks."""
    hits = (prediction & truth, prediction & ~truth, ~prediction & truth)
    return tuple(int(np.count_nonzero(hit)) for hit in hits)  # type: ignore[return-value]


def image_scores(probability: np.ndarray, truth: np.ndarray, threshold: float = 0.5) -> dict[str, Any]:
    """Score one image.

    Args:
        probability: ``[H, W]`` in [0, 1].
        truth: boolean ``[H, W]``.
        threshold: probability that foreground exceeds.

    Returns:
        ``dice``, ``iou`` and ``boundary_f`` of the thresholded probability; ``brier_score``, the mean squared
        difference of probability and truth over the ``pixels``; and ``calibration``, the
        :func:`~monai_segdiff.metrics.calibration_score.calibration_counts` as a list.

    Example:
        >>> image_scores(np.ones((4, 4)), np.ones((4, 4), dtype=bool))["dice"]
        1.0
    """
    predicted = probability > threshold
    overlap = segmentation_scores(*overlap_counts(predicted, truth))
    return {
        "dice": overlap["dice"],
        "iou": overlap["iou"],
        "boundary_f": float(boundary_f_of_counts(*boundary_counts(predicted, truth, BOUNDARY_DISTANCE))),
        "brier_score": float(np.square(probability - truth).mean(dtype=np.float64)),
        "pixels": truth.size,
        "calibration": calibration_counts(probability, truth).tolist(),
    }


def pooled_calibration(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the calibration of the pixels of all images: the calibration scores, and ``brier_score``.

    Args:
        rows: of :func:`image_scores`.
    """
    counts = np.sum([row["calibration"] for row in rows], axis=0)
    squared = sum(row["brier_score"] * row["pixels"] for row in rows)
    return {**calibration_scores(counts), "brier_score": squared / sum(row["pixels"] for row in rows)}


def pooled_scores(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Summarise images: means with 95 % bootstrap intervals over images, and the calibration of all their pixels.

    Args:
        rows: of :func:`image_scores`, at least one.

    Returns:
        ``{score: {"value", "interval"}}`` for Dice, IoU and boundary F; what :func:`pooled_calibration` returns; and
        the ``images``, as given.
    """
    summary: dict[str, Any] = {}
    for score in SCORES:
        values = [row[score] for row in rows]
        summary[score] = {"value": sum(values) / len(values), "interval": bootstrap_interval(values)}
    return {**summary, **pooled_calibration(rows), "images": list(rows)}
