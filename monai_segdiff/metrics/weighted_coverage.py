# SPDX-License-Identifier: Apache-2.0
"""Weighted coverage: how well every true instance is covered by its best predicted one, weighted by area."""

from __future__ import annotations

import numpy as np
import torch
from monai.metrics.utils import ignore_background
from monai.utils import MetricReduction

from .instance_overlap import instance_overlap
from .per_image import compute_per_image
from .reduced_metric import ReducedMetric

__all__ = [
    "WeightedCoverageMetric",
    "compute_weighted_coverage",
    "weighted_coverage_counts",
    "weighted_coverage_of_counts",
]


def weighted_coverage_counts(prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Count what the weighted coverage of one pair of instance maps is made of; counts of images may be added.

    Args:
        prediction: instance map, whole numbers from 0 (background), ``[*spatial]``.
        truth: of the same shape.

    Returns:
        float64 ``[3]``: sum of each true instance's area times its best IoU, true area, predicted area.
    """
    overlap = instance_overlap(prediction, truth)
    best = overlap.best_pairs()
    covered = (overlap.true_areas[overlap.true[best]] * overlap.ious[best]).sum()
    return np.array([covered, overlap.true_areas.sum(), overlap.predicted_areas.sum()], dtype=np.float64)


def weighted_coverage_of_counts(*counts: np.ndarray | float) -> np.ndarray:
    """Weighted coverage of (summed) :func:`weighted_coverage_counts`, each of any shape ``[...]``."""
    covered, true, predicted = (np.asarray(count, dtype=np.float64) for count in counts)
    score = np.divide(covered, true, out=np.zeros_like(covered), where=true > 0)
    return np.where((true == 0) & (predicted == 0), 1.0, score)


def _weighted_coverage(prediction: np.ndarray, truth: np.ndarray) -> float:
    return float(weighted_coverage_of_counts(*weighted_coverage_counts(prediction, truth)))


def compute_weighted_coverage(y_pred: torch.Tensor, y: torch.Tensor, include_background: bool = True) -> torch.Tensor:
    r"""Weighted coverage per image and channel (Silberman et al., ECCV 2014).

    With the true instances :math:`G_i`, the predicted instances :math:`P_j` and :math:`|\cdot|` the area in pixels,

    .. math::
        \mathrm{WCov} = \frac{\sum_i |G_i| \max_j \mathrm{IoU}(G_i, P_j)}{\sum_i |G_i|}

    A predicted instance that covers nothing costs nothing. Both maps empty: 1. Exactly one empty: 0.

    The maps hold instances, not masks: a 0/1 mask counts as a single instance, and the score is then its IoU. Separate
    objects should be labelled first, e.g. with ``skimage.measure.label`` or
    :class:`~monai_segdiff.transforms.ProbabilityToInstances`. The "WCov" of the released SegDiff code is another
    quantity, see :func:`compute_area_ratio`.

    Args:
        y_pred: predicted instance maps, shape [B, C, H, W] or [B, C, H, W, D]: 0 for background, other whole numbers
            up to 2**31 - 1 for the instances, of any type.
        y: true instance maps of the same shape.
        include_background: False drops channel 0 if there is more than one channel.

    Returns:
        Scores in 0..1, float32, shape [B, C] (one column less without background), on the device of ``y_pred``.

    Raises:
        ValueError: the shapes differ or are not 2-D or 3-D images, or labels are NaN, negative or fractional.

    Example:
        >>> truth = torch.tensor([[[[1, 1, 0, 2]]]])
        >>> compute_weighted_coverage(torch.tensor([[[[0, 5, 0, 9]]]]), truth)
        tensor([[0.6667]])
    """
    scores = compute_per_image(y_pred, y, _weighted_coverage).float()
    return scores if include_background else ignore_background(y_pred=scores)[0]


class WeightedCoverageMetric(ReducedMetric):
    """Mean weighted coverage over a data set; see :func:`compute_weighted_coverage` for definition and empty cases.

    Args:
        include_background: False drops channel 0 if there is more than one channel.
        reduction: how ``aggregate`` reduces the [images, channels] buffer, see :class:`monai.utils.MetricReduction`.
        get_not_nans: True makes ``aggregate`` return ``(score, not_nans)``.

    Example:
        >>> metric = WeightedCoverageMetric()
        >>> instances = torch.tensor([[[[1, 1, 0, 2]]]])
        >>> _ = metric(y_pred=instances, y=instances)
        >>> metric.aggregate().item()
        1.0
    """

    def __init__(
        self,
        include_background: bool = True,
        reduction: MetricReduction | str = MetricReduction.MEAN,
        get_not_nans: bool = False,
    ) -> None:
        super().__init__(reduction, get_not_nans)
        self.include_background = include_background

    def _compute_tensor(self, y_pred: torch.Tensor, y: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """Scores of one batch, shape [B, C]; arguments and errors as in :func:`compute_weighted_coverage`."""
        return compute_weighted_coverage(y_pred, y, self.include_background)
