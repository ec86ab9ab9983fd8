# SPDX-License-Identifier: Apache-2.0
"""The temperature that makes probabilities most likely."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit, logit

__all__ = ["PROBABILITY_CLIP", "TEMPERATURE_BOUNDS", "fit_temperature", "negative_log_likelihood"]

# Diffusion models give exact 0 and 1, whose logits are infinite.
PROBABILITY_CLIP = 1e-4
TEMPERATURE_BOUNDS = (0.05, 20.0)

Pixels = np.ndarray | Sequence[np.ndarray]


def negative_log_likelihood(probability: Pixels, truth: Pixels, temperature: float = 1.0) -> float:
    r"""Mean negative log likelihood of binary pixels after temperature scaling, in nats.

    With :math:`z = \text{logit}(\text{clip}(p, 10^{-4}, 1 - 10^{-4}))` and temperature :math:`T`, the mean over all
    pixels of :math:`\log(1 + e^{z / T}) - y z / T`. At T = 1 it is the cross entropy of the clipped probability, so
    that a sure pixel that is wrong costs 9.2, not infinity.

    Args:
        probability: foreground probabilities in [0, 1]: an array of any shape, or one for each image.
        truth: 0 or 1 (or boolean), of the same shape or shapes.
        temperature: T, above 0.

    Returns:
        The mean, at least 0.

    Raises:
        ValueError: shapes differ, there is no pixel, a probability is NaN or outside [0, 1], the truth has other
            values, or the temperature is not above 0.

    Example:
        >>> round(negative_log_likelihood(np.array([0.5, 0.5]), np.array([0, 1])), 4)
        0.6931
    """
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature!r}, expected a number above 0.")
    images = _logits(probability, truth)
    # log(1 + e^z) - y z is log(1 + e^-z) for y = 1.
    total = sum(float(np.logaddexp(0, np.where(y, -z, z) / temperature).sum()) for z, y in images)
    return total / sum(z.size for z, _ in images)


def fit_temperature(probability: Pixels, truth: Pixels) -> float:
    r"""Find the temperature that minimises :func:`negative_log_likelihood` over all pixels together.

    The likelihood is convex in :math:`1 / T`, so that its slope :math:`\sum z (\sigma(z / T) - y)` has one zero, which
    is bracketed and found. Above 1: the probabilities are too sure; below 1: not sure enough.

    Args:
        probability: foreground probabilities in [0, 1]: an array of any shape, or one for each image.
        truth: 0 or 1 (or boolean), of the same shape or shapes.

    Returns:
        The best temperature in 0.05..20, ``TEMPERATURE_BOUNDS``. A bound is returned if it is the best of them: 0.05 if
        no pixel is on the wrong side of 0.5, 20 if probabilities say nothing or the opposite of the truth. 1 if every
        probability is 0.5, which no temperature changes.

    Raises:
        ValueError: as :func:`negative_log_likelihood`.

    Example:
        >>> sure, truth = np.full(10, 0.9), np.arange(10) < 6
        >>> round(fit_temperature(sure, truth), 3)
        5.419
    """
    images = _logits(probability, truth)
    if not any(z.any() for z, _ in images):
        return 1.0

    def slope(inverse: float) -> float:
        """Of the summed negative log likelihood, over the inverse temperature; it never falls."""
        return sum(float((z * (expit(z * inverse) - y)).sum()) for z, y in images)

    coldest, hottest = TEMPERATURE_BOUNDS
    if slope(1 / hottest) >= 0:
        return hottest
    if slope(1 / coldest) <= 0:
        return coldest
    return 1 / brentq(slope, 1 / hottest, 1 / coldest, xtol=1e-12)


def _logits(probability: Pixels, truth: Pixels) -> list[tuple[np.ndarray, np.ndarray]]:
    """Logits of the clipped probabilities, float64, and the truth, boolean, of each image."""
    ps, ys = ([one] if isinstance(one, np.ndarray) else list(one) for one in (probability, truth))
    if [p.shape for p in ps] != [y.shape for y in ys] or not sum(p.size for p in ps):
        found = f"probability has the shapes {[p.shape for p in ps]} and truth {[y.shape for y in ys]}"
        raise ValueError(f"{found}, expected the same, with at least one pixel.")
    images = []
    for p, y in zip(ps, ys, strict=True):
        # NaN fails these as well.
        if not ((p >= 0) & (p <= 1)).all():
            raise ValueError(f"probability has values from {p.min():g} to {p.max():g}, expected 0 to 1.")
        if not ((y == 0) | (y == 1)).all():
            raise ValueError(f"truth has values from {y.min():g} to {y.max():g}, expected only 0 and 1.")
        images.append((logit(p.astype(np.float64).clip(PROBABILITY_CLIP, 1 - PROBABILITY_CLIP)), y.astype(bool)))
    return images
