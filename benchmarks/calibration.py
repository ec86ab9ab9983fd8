# SPDX-License-Identifier: Apache-2.0
"""Whether probabilities mean what they say."""

from __future__ import annotations

import numpy as np

__all__ = ["Calibration"]

NUM_BINS = 10


class Calibration:
    """Compares foreground probabilities with the share of foreground, over the pooled pixels of many images.

    Ten uniform bins on [0, 1], the upper end of each belonging to the next, 1 to the last. With ``n_b`` of ``N`` pixels
    in bin ``b``, ``p_b`` their mean probability and ``y_b`` their share of foreground:

    - *expected calibration error* ``sum_b n_b / N |p_b - y_b|``;
    - *paper's score* ``1/10 sum_b (p_b - y_b)^2``, the definition printed in SegDiff (arXiv 2112.00390), which leaves
      open what an empty bin counts and whether pixels are pooled. Here an empty bin adds 0 and still counts among the
      ten, and pixels are pooled. It weighs a bin of few pixels like one of many;
    - *Brier score*, the mean of ``(p - y)^2``.

    Lower is better, 0 is perfect.

    Example:
        >>> calibration = Calibration()
        >>> calibration.add(np.array([0.25, 0.25]), np.array([False, True]))
        >>> calibration.scores()["expected_calibration_error"]
        0.25
    """

    def __init__(self) -> None:
        self._count = np.zeros(NUM_BINS)
        self._probability = np.zeros(NUM_BINS)
        self._foreground = np.zeros(NUM_BINS)
        self._squared_error = 0.0

    def add(self, probability: np.ndarray, truth: np.ndarray) -> None:
        """Take in the pixels of an image.

        Args:
            probability: values in [0, 1], of any shape.
            truth: boolean, of the same shape.

        Raises:
            ValueError: the shapes differ or a probability lies outside [0, 1] or is NaN.
        """
        if probability.shape != truth.shape:
            raise ValueError(f"probability has shape {probability.shape} and truth {truth.shape}, expected the same.")
        p, y = probability.astype(np.float64).ravel(), truth.astype(np.float64).ravel()
        if not ((p >= 0) & (p <= 1)).all():
            raise ValueError(f"probability has values from {p.min():g} to {p.max():g}, expected 0 to 1.")
        bins = np.minimum((p * NUM_BINS).astype(int), NUM_BINS - 1)
        self._count += np.bincount(bins, minlength=NUM_BINS)
        self._probability += np.bincount(bins, weights=p, minlength=NUM_BINS)
        self._foreground += np.bincount(bins, weights=y, minlength=NUM_BINS)
        self._squared_error += float(((p - y) ** 2).sum())

    def scores(self) -> dict[str, float]:
        """Return ``expected_calibration_error``, ``paper_calibration_score``, ``brier_score``, ``empty_bins``."""
        total = self._count.sum()
        if not total:
            raise ValueError("no pixel was added, expected at least one.")
        # Empty bins have sums of 0, so that their gap is 0 as well.
        gap = (self._probability - self._foreground) / np.maximum(self._count, 1)
        return {
            "expected_calibration_error": float((self._count / total * np.abs(gap)).sum()),
            "paper_calibration_score": float((gap**2).mean()),
            "brier_score": self._squared_error / float(total),
            "empty_bins": int((self._count == 0).sum()),
        }
