# SPDX-License-Identifier: Apache-2.0
"""How good the mean of some generations is, and how much the generations differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from monai_segdiff import segmentation_scores

from .image_scores import image_scores, overlap_counts, pooled_scores

__all__ = ["generation_scores", "pooled_generation_scores"]

SPREADS = ("spread", "pairwise_dice")


def generation_scores(generations: np.ndarray, truth: np.ndarray, threshold: float = 0.5) -> dict[str, Any]:
    """Score the generations of one image.

    The prediction is their mean. How much they differ is said by

    - *spread*: the standard deviation of the generations' probabilities (of the population), mean over pixels;
    - *pairwise Dice*: Dice between two thresholded generations, mean over all pairs (two empty masks: 1).

    Args:
        generations: probabilities ``[N, H, W]``.
        truth: boolean ``[H, W]``.
        threshold: probability that foreground exceeds.

    Returns:
        :func:`~benchmarks.image_scores.image_scores` of the mean, ``spread`` and ``pairwise_dice``; these two None with
        one generation.

    Example:
        >>> generation_scores(np.ones((1, 4, 4)), np.ones((4, 4), dtype=bool))["dice"]
        1.0
    """
    # In float64, so that the mean of equal float32 numbers is that number and never crosses the threshold.
    generations = generations.astype(np.float64)
    several = len(generations) > 1
    return {
        **image_scores(generations.mean(0), truth, threshold),
        "spread": float(generations.std(0).mean()) if several else None,
        "pairwise_dice": _pairwise_dice(generations > threshold) if several else None,
    }


def pooled_generation_scores(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Summarise images.

    Args:
        rows: of :func:`generation_scores`, at least one, all with the same number of generations.

    Returns:
        What :func:`~benchmarks.image_scores.pooled_scores` returns, and the means of ``spread`` and ``pairwise_dice``
        over the images, None with one generation.
    """
    summary = pooled_scores(rows)
    for spread in SPREADS:
        values = [row[spread] for row in rows]
        summary[spread] = None if None in values else sum(values) / len(values)
    return summary


def _pairwise_dice(masks: np.ndarray) -> float:
    dice = [segmentation_scores(*overlap_counts(a, b))["dice"] for a, b in combinations(masks, 2)]
    return sum(dice) / len(dice)
