# SPDX-License-Identifier: Apache-2.0
"""Aggregated Jaccard index (AJI): the measure of the MoNuSeg challenge."""

from __future__ import annotations

import numpy as np
import torch

from .instance_overlap import instance_overlap
from .per_image import compute_per_image
from .reduced_metric import ReducedMetric

__all__ = [
    "AggregatedJaccardMetric",
    "aggregated_jaccard_counts",
    "aggregated_jaccard_of_counts",
    "compute_aggregated_jaccard",
]


def aggregated_jaccard_counts(prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Numerator and denominator of the AJI of one pair of instance maps; the counts of several images may be added.

    Args:
        prediction: instance map ``[*spatial]`` of any dimension, whole numbers from 0 (background) to 2**31 - 1.
        truth: instance map of the same shape.

    Returns:
        int64 ``[2]``: pixels of the intersections and of the unions, as defined in :func:`compute_aggregated_jaccard`.

    Raises:
        ValueError: the shapes differ, or labels are NaN, negative or fractional.
    """
    overlap = instance_overlap(prediction, truth)
    best = overlap.best_pairs()
    missed = np.delete(overlap.true_areas, overlap.true[best])
    never_taken = np.delete(overlap.predicted_areas, overlap.predicted[best])
    return np.array(
        [overlap.intersections[best].sum(), overlap.unions[best].sum() + missed.sum() + never_taken.sum()],
        dtype=np.int64,
    )


def aggregated_jaccard_of_counts(*counts: np.ndarray | int) -> np.ndarray:
    """AJI of (summed) :func:`aggregated_jaccard_counts`.

    Args:
        counts: the 2 counts, each of any shape ``[...]``.

    Returns:
        Scores in 0..1, float64 ``[...]``. Nothing predicted and nothing true: 1.
    """
    intersection, union = (np.asarray(count, dtype=np.float64) for count in counts)
    return np.divide(intersection, union, out=np.ones_like(union), where=union > 0)


def compute_aggregated_jaccard(y_pred: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    r"""Aggregated Jaccard index per image and channel (Kumar et al., IEEE TMI 2017).

    With the true instances :math:`G_i`, the predicted instances :math:`P_j`,
    :math:`j(i) = \arg\max_j \mathrm{IoU}(G_i, P_j)` and :math:`U` the predicted instances that no :math:`G_i` takes,

    .. math::
        \mathrm{AJI} = \frac{\sum_i |G_i \cap P_{j(i)}|}{\sum_i |G_i \cup P_{j(i)}| + \sum_{j \in U} |P_j|}

    Several true instances may take the same predicted one. Of equal IoUs the smallest label is taken. A true instance
    that nothing overlaps takes none; it adds its area to the denominator. Both maps empty: 1. Exactly one empty: 0.

    Args:
        y_pred: predicted instance maps, shape [B, C, H, W] or [B, C, H, W, D]: 0 for background, other whole numbers
            up to 2**31 - 1 for the instances, of any type. A 0/1 mask counts as a single instance.
        y: true instance maps of the same shape.

    Returns:
        Scores in 0..1, float32, shape [B, C], on the device of ``y_pred``.

    Raises:
        ValueError: the shapes differ or are not 2-D or 3-D images, or labels are NaN, negative or fractional.

    Example:
        >>> truth = torch.tensor([[[[1, 1, 0, 2]]]])
        >>> compute_aggregated_jaccard(torch.tensor([[[[0, 5, 9, 0]]]]), truth)
        tensor([[0.2500]])
    """
    scores = compute_per_image(y_pred, y, lambda p, t: aggregated_jaccard_of_counts(*aggregated_jaccard_counts(p, t)))
    return scores.float()


class AggregatedJaccardMetric(ReducedMetric):
    """Mean AJI over a data set; see :func:`compute_aggregated_jaccard` for the definition and the empty cases.

    Every image weighs the same. For the AJI of all images together, add their :func:`aggregated_jaccard_counts`.

    Args:
        reduction: how ``aggregate`` reduces the [images, channels] buffer, see :class:`monai.utils.MetricReduction`.
        get_not_nans: True makes ``aggregate`` return ``(score, not_nans)``.

    Example:
        >>> metric = AggregatedJaccardMetric()
        >>> instances = torch.tensor([[[[1, 1, 0, 2]]]])
        >>> _ = metric(y_pred=instances, y=instances)
        >>> metric.aggregate().item()
        1.0
    """

    def _compute_tensor(self, y_pred: torch.Tensor, y: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """Scores of one batch, shape [B, C]; arguments and errors as in :func:`compute_aggregated_jaccard`."""
        return compute_aggregated_jaccard(y_pred, y)
