# SPDX-License-Identifier: Apache-2.0
"""Overlap scores from pixel counts, and their bootstrap intervals over images."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import stats

__all__ = ["bootstrap_interval", "segmentation_scores"]

SCORE_NAMES = ("dice", "iou", "precision", "recall", "area_ratio")
ROUND_OFF = 1e-12


def score_of_counts(name: str, tp: Any, fp: Any, fn: Any) -> np.ndarray:
    """Return one score for arrays of counts; the edge cases are those of :func:`segmentation_scores`."""
    tp, fp, fn = (np.asarray(count, dtype=np.float64) for count in (tp, fp, fn))
    above = {"dice": 2 * tp, "area_ratio": tp + np.minimum(fp, fn)}.get(name, tp)
    below = {
        "dice": 2 * tp + fp + fn,
        "iou": tp + fp + fn,
        "precision": tp + fp,
        "recall": tp + fn,
        "area_ratio": tp + np.maximum(fp, fn),
    }[name]
    score = np.divide(above, below, out=np.zeros(np.shape(tp)), where=below > 0)
    return np.where(tp + fp + fn == 0, 1.0, score)


def segmentation_scores(tp: int, fp: int, fn: int) -> dict[str, float]:
    """Dice, IoU, precision, recall and area ratio of the foreground, defined for every count.

    ========================== ==== ==== ========= ====== ==========
    case                       dice iou  precision recall area_ratio
    ========================== ==== ==== ========= ====== ==========
    truth and prediction empty 1    1    1         1      1
    only the truth empty       0    0    0         0      0
    only the prediction empty  0    0    0         0      0
    both present, no overlap   0    0    0         0      as defined
    ========================== ==== ==== ========= ====== ==========

    Otherwise ``dice = 2 tp / (2 tp + fp + fn)`` (SegDiff's F1), ``iou = tp / (tp + fp + fn)``,
    ``precision = tp / (tp + fp)``, ``recall = tp / (tp + fn)`` and
    ``area_ratio = min(tp + fp, tp + fn) / max(tp + fp, tp + fn)`` (:func:`~monai_segdiff.metrics.compute_area_ratio`).
    So precision with an empty prediction and recall with an empty truth, which would be 0 / 0, count as 0 unless there
    was nothing to find and nothing was found.

    Args:
        tp: number of foreground pixels found.
        fp: number of background pixels marked as foreground.
        fn: number of foreground pixels missed.

    Returns:
        ``{"dice": ..., "iou": ..., "precision": ..., "recall": ..., "area_ratio": ...}``, each in 0..1.

    Raises:
        ValueError: a count is negative or not a whole number.

    Example:
        >>> segmentation_scores(tp=2, fp=1, fn=1)["iou"]
        0.5
    """
    for name, count in (("tp", tp), ("fp", fp), ("fn", fn)):
        if not count >= 0 or int(count) != count:
            raise ValueError(f"{name} is {count!r}, expected a whole number of pixels, at least 0.")
    return {name: float(score_of_counts(name, tp, fp, fn)) for name in SCORE_NAMES}


def bootstrap_interval(
    values: Any,
    statistic: str | Callable[..., np.ndarray] = "mean",
    n_resamples: int = 2000,
    confidence_level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float] | None:
    """Percentile bootstrap interval over images: how much the result depends on which images were in the set.

    Images are drawn with replacement, so this is the spread from the choice of images only, not that from retraining
    or from the sampler's noise. Draws of images that do not define the statistic (NaN) are left out.

    Args:
        values: one row per image. For ``statistic="mean"`` the score of each image, shape [N]; otherwise the counts
            ``(tp, fp, fn)`` of each image, shape [N, 3].
        statistic: ``"mean"`` for the mean of the images' scores, or ``"dice"``, ``"iou"``, ``"precision"``,
            ``"recall"``, ``"area_ratio"`` for that score of the counts summed over the resampled images (pooled
            score); or a function of such summed counts, one array for each of the K columns of ``values`` ``[N, K]``.
        n_resamples: number of bootstrap samples.
        confidence_level: e.g. 0.95 for the 2.5 % and 97.5 % percentiles.
        seed: seed of the resampling; equal input gives equal intervals.

    Returns:
        ``(low, high)``, ``(v, v)`` if all images are equal, None if there are fewer than two images.

    Raises:
        ValueError: unknown ``statistic``, wrong shape, or values that are not finite.

    Example:
        >>> bootstrap_interval([0.5, 0.5, 0.5])
        (0.5, 0.5)
    """
    return interval_of(bootstrap_distribution(values, statistic, n_resamples, seed), confidence_level)


def interval_of(drawn: np.ndarray, confidence_level: float) -> tuple[float, float] | None:
    """Percentile interval of a :func:`bootstrap_distribution`, None if it is empty."""
    drawn = drawn[~np.isnan(drawn)]
    if not len(drawn):
        return None
    tail = (1 - confidence_level) / 2
    low, high = (float(end) for end in np.quantile(drawn, (tail, 1 - tail)))
    return (low, low) if high - low < ROUND_OFF else (low, high)


def bootstrap_distribution(
    values: Any, statistic: str | Callable[..., np.ndarray], n_resamples: int, seed: int
) -> np.ndarray:
    """Return the statistic of each resample, float64 ``[n_resamples]``, or ``[0]`` for fewer than two images.

    Arguments and errors are those of :func:`bootstrap_interval`.
    """
    if isinstance(statistic, str) and statistic not in ("mean", *SCORE_NAMES):
        raise ValueError(f"statistic is {statistic!r}, expected 'mean' or one of {SCORE_NAMES}.")
    rows = np.asarray(values, dtype=np.float64)
    if statistic == "mean" and rows.ndim != 1:
        raise ValueError(f"values have shape {rows.shape}, expected [N] for the mean.")
    if statistic in SCORE_NAMES and rows.size and (rows.ndim != 2 or rows.shape[1] != 3):
        raise ValueError(f"values have shape {rows.shape}, expected [N, 3] counts (tp, fp, fn) for {statistic!r}.")
    if not np.isfinite(rows).all():
        raise ValueError("values hold NaN or infinity, expected finite numbers.")
    if len(rows) < 2:
        return np.empty(0)

    def compute(*columns: np.ndarray, axis: int = -1) -> np.ndarray:
        if statistic == "mean":
            return np.mean(columns[0], axis=axis)
        sums = [column.sum(axis=axis) for column in columns]
        return score_of_counts(statistic, *sums) if isinstance(statistic, str) else statistic(*sums)

    columns = (rows,) if statistic == "mean" else tuple(rows.T)
    if (rows == rows[0]).all():
        # The mean of n equal numbers may be off by round-off: use one image, whose score is the same by definition.
        return np.full(n_resamples, float(compute(*(column[:1] for column in columns))))
    # scipy 1.15 renamed the argument; older ones (Python 3.10) only know the old name.
    seed_name = "rng" if "rng" in inspect.signature(stats.bootstrap).parameters else "random_state"
    seeded: dict[str, Any] = {seed_name: np.random.default_rng(seed)}
    with warnings.catch_warnings():
        # Resamples without a value spoil scipy's own interval, which is not used.
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        return stats.bootstrap(
            columns,
            compute,
            paired=len(columns) > 1,
            vectorized=True,
            method="percentile",
            n_resamples=n_resamples,
            batch=max(1, 6_000_000 // rows.size),  # bounds the memory for large sets
            **seeded,
        ).bootstrap_distribution
