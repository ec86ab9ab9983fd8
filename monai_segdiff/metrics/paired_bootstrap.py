# SPDX-License-Identifier: Apache-2.0
"""Whether one method is better than another on the same images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .segmentation_scores import ROUND_OFF, bootstrap_distribution, interval_of

__all__ = ["PairedBootstrap", "paired_bootstrap"]


class PairedBootstrap(NamedTuple):
    """Result of :func:`paired_bootstrap`.

    Attributes:
        difference: mean over the images of the first method's score less the second's.
        interval: ends of its percentile interval, None for a single image.
        share_not_above: share of the resamples whose difference is 0 or below, in 0..1, None for a single image. Near 0
            where the first method's score is higher, near 1 where it is lower, whichever images are in the set.
    """

    difference: float
    interval: tuple[float, float] | None
    share_not_above: float | None


def paired_bootstrap(
    first: Sequence[float] | np.ndarray,
    second: Sequence[float] | np.ndarray,
    n_resamples: int = 10_000,
    confidence_level: float = 0.95,
    seed: int = 0,
) -> PairedBootstrap:
    """Compare the scores of two methods image by image.

    Images are drawn with replacement, each with both of its scores, as :func:`bootstrap_interval` draws them: an image
    that is hard for both methods does not widen the interval.

    Args:
        first: score of each image by one method, [N].
        second: score of the same images, in the same order, by the other, [N]. Images that do not define both scores
            have to be left out.
        n_resamples: number of bootstrap samples.
        confidence_level: e.g. 0.95 for the 2.5 % and 97.5 % percentiles.
        seed: seed of the resampling; equal input gives equal results. No global random state is read or changed.

    Returns:
        The mean difference, its interval and the share of resamples in which it is not above 0.

    Raises:
        ValueError: the numbers of scores differ or are 0, or a score is not finite.

    Example:
        >>> paired_bootstrap([0.75, 0.5], [0.5, 0.25])
        PairedBootstrap(difference=0.25, interval=(0.25, 0.25), share_not_above=0.0)
    """
    scores = [np.asarray(values, dtype=np.float64) for values in (first, second)]
    if scores[0].shape != scores[1].shape or scores[0].ndim != 1 or not scores[0].size:
        raise ValueError(
            f"first has shape {scores[0].shape} and second {scores[1].shape}, expected one score of each for every "
            "image, at least one."
        )
    change = scores[0] - scores[1]
    drawn = bootstrap_distribution(change, "mean", n_resamples, seed)
    share = float((drawn <= ROUND_OFF).mean()) if len(drawn) else None
    return PairedBootstrap(float(change.mean()), interval_of(drawn, confidence_level), share)
