# SPDX-License-Identifier: Apache-2.0
"""Calibration and likelihood of the probabilities of several classes."""

from __future__ import annotations

import numpy as np

from .calibration_score import calibration_counts, calibration_scores
from .temperature_fit import PROBABILITY_CLIP

__all__ = ["class_calibration_counts", "class_calibration_scores"]

_SUM_TOLERANCE = 1e-3


def class_calibration_counts(probability: np.ndarray, truth: np.ndarray, num_bins: int = 10) -> np.ndarray:
    r"""Count what the scores of some pixels are made of; the counts of several images may be added.

    Args:
        probability: probabilities of K classes, background included, ``[K, *spatial]``, which sum to 1.
        truth: classes 0..K-1, ``[*spatial]``.
        num_bins: bins of the confidence, at least 1.

    Returns:
        float64 ``[3 * num_bins + 2]``: :func:`calibration_counts`, flat, of the confidence (the highest of the K
        probabilities) and of whether its class is true; then the sums over pixels of :math:`-\ln p_y`, with :math:`p_y`
        the probability of the true class, clipped to :math:`[10^{-4}, 1 - 10^{-4}]` as in
        :func:`negative_log_likelihood`, and of :math:`\sum_k (p_k - [k = y])^2`.

    Raises:
        ValueError: the shapes do not fit, probabilities are negative or do not sum to 1 within 0.001, the truth has
            other values, or ``num_bins`` is not a whole number above 0.

    Example:
        >>> counts = class_calibration_counts(np.array([[0.75], [0.25], [0.0]]), np.array([0]), num_bins=1)
        >>> counts.round(3).tolist()
        [1.0, 0.75, 1.0, 0.288, 0.125]
    """
    num_classes = len(probability)
    if probability.ndim != truth.ndim + 1 or probability.shape[1:] != truth.shape or num_classes < 2:
        raise ValueError(
            f"probability has shape {probability.shape} and truth {truth.shape}, expected [K, *spatial] of at least 2 "
            "classes and [*spatial]."
        )
    p = probability.astype(np.float64)
    # NaN fails these as well.
    if not ((p >= 0) & (np.abs(p.sum(axis=0) - 1) <= _SUM_TOLERANCE)).all():
        raise ValueError(
            f"probability has values from {p.min():g} to {p.max():g} and sums from {p.sum(axis=0).min():g} to "
            f"{p.sum(axis=0).max():g}, expected values of at least 0 with a sum of 1."
        )
    if not np.isin(truth, range(num_classes)).all():
        raise ValueError(f"truth has values from {truth.min():g} to {truth.max():g}, expected 0..{num_classes - 1}.")
    true_class = truth.astype(np.int64)[None]
    of_truth = np.take_along_axis(p, true_class, axis=0)
    correct = p.argmax(axis=0) == true_class[0]
    # In the precision given: a float32 0.7 belongs to the bin that begins there.
    confidence = probability.max(axis=0).clip(max=1)
    # sum_k (p_k - [k = y])^2, without the one-hot truth.
    squares = (p**2).sum(axis=0) - 2 * of_truth[0] + 1
    logarithms = -np.log(of_truth.clip(PROBABILITY_CLIP, 1 - PROBABILITY_CLIP))
    bins = calibration_counts(confidence, correct, num_bins)
    return np.array([*bins.ravel(), logarithms.sum(), squares.sum()])


def class_calibration_scores(counts: np.ndarray) -> dict[str, float]:
    """Scores of (summed) :func:`class_calibration_counts`. Lower is better.

    Args:
        counts: ``[3 * num_bins + 2]``.

    Returns:
        ``expected_calibration_error`` of the confidence, in [0, 1] (:func:`calibration_scores`);
        ``negative_log_likelihood``, mean over pixels in nats, at least 0; and ``brier_score``, mean over pixels of the
        squared distance summed over the classes, in [0, 2], twice the score of one class if there are two.

    Raises:
        ValueError: another shape, or no pixel was counted.

    Example:
        >>> probability, truth = np.array([[0.5], [0.5]]), np.array([1])
        >>> class_calibration_scores(class_calibration_counts(probability, truth))["brier_score"]
        0.5
    """
    if np.ndim(counts) != 1 or len(counts) < 5 or (len(counts) - 2) % 3:
        raise ValueError(f"counts have shape {np.shape(counts)}, expected [3 * num_bins + 2].")
    bins = np.reshape(counts[:-2], (-1, 3))
    error = calibration_scores(bins)["expected_calibration_error"]
    logarithm, square = (float(total / bins[:, 0].sum()) for total in counts[-2:])
    return {"expected_calibration_error": error, "negative_log_likelihood": logarithm, "brier_score": square}
