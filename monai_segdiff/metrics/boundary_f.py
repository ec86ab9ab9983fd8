# SPDX-License-Identifier: Apache-2.0
"""Boundary F score: the contour measure reported by SegDiff (arXiv 2112.00390) as "FBound"."""

from __future__ import annotations

from itertools import product

import numpy as np
import torch
from monai.metrics.utils import ignore_background
from monai.utils import MetricReduction
from scipy.ndimage import distance_transform_edt

from .reduced_metric import ReducedMetric

__all__ = ["BoundaryFMetric", "boundary_counts", "boundary_f_of_counts", "compute_boundary_f"]


def _boundary_map(mask: np.ndarray) -> np.ndarray:
    """Pixels of a boolean ``mask`` of any dimension that differ from at least one of their forward neighbours."""
    boundary = np.zeros_like(mask)
    for offset in product((0, 1), repeat=mask.ndim):
        if not any(offset):
            continue
        here = tuple(slice(0, size - step) for size, step in zip(mask.shape, offset, strict=True))
        ahead = tuple(slice(step, None) for step in offset)
        boundary[here] |= mask[here] ^ mask[ahead]
    return boundary


def boundary_counts(prediction: np.ndarray, truth: np.ndarray, max_distance: int = 5) -> np.ndarray:
    """Count what the boundary F of one pair of masks is made of; the counts of several images may be added.

    Args:
        prediction: boolean mask, ``[*spatial]``.
        truth: boolean mask of the same shape.
        max_distance: largest tolerance R in pixels.

    Returns:
        int64 ``[2 + 2 R]``: predicted boundary pixels, true ones, the predicted ones that lie within 1..R pixels of the
        true boundary, and the true ones that lie within 1..R pixels of the predicted boundary.
    """
    predicted, true = _boundary_map(prediction), _boundary_map(truth)
    totals = [predicted.sum(), true.sum()]
    if not all(totals):
        return np.array([*totals, *[0] * (2 * max_distance)])
    # Distances are only read on boundary pixels, so the part of the image that holds none of them can be cut off.
    spans = [(found.min(), found.max() + 1) for found in np.nonzero(predicted | true)]
    box = tuple(slice(int(low), int(high)) for low, high in spans)
    predicted, true = predicted[box], true[box]
    # "Inside the other boundary dilated by a disk of radius r" is the same as "at most r away from the other boundary":
    # one distance map serves all radii.
    distances = (distance_transform_edt(~true)[predicted], distance_transform_edt(~predicted)[true])
    radii = range(1, max_distance + 1)
    return np.array([*totals, *((distance <= radius).sum() for distance in distances for radius in radii)])


def boundary_f_of_counts(*counts: np.ndarray) -> np.ndarray:
    """Boundary F of (summed) :func:`boundary_counts`.

    Args:
        counts: the 2 + 2 R counts, each of any shape ``[...]``.

    Returns:
        Scores in 0..1, float64 ``[...]``. Both boundaries empty: 1. Exactly one empty: 0.
    """
    predicted, true = (np.asarray(total, dtype=np.float64) for total in counts[:2])
    found = np.asarray(counts[2:], dtype=np.float64)
    precision, recall = np.split(found / np.maximum([predicted, true], 1).repeat(len(found) // 2, axis=0), 2)
    total = precision + recall
    scores = np.divide(2 * precision * recall, total, out=np.zeros_like(total), where=total > 0).mean(axis=0)
    return np.where((predicted == 0) & (true == 0), 1.0, scores)


def _check(name: str, value: torch.Tensor) -> None:
    if value.ndim not in (4, 5):
        raise ValueError(f"{name} has shape {tuple(value.shape)}, expected [B, C, H, W] or [B, C, H, W, D].")
    if torch.isnan(value).any():
        raise ValueError(f"{name} holds NaN, expected only 0 and 1.")
    if not ((value == 0) | (value == 1)).all():
        low, high = float(value.min()), float(value.max())
        raise ValueError(f"{name} is not binarised: values from {low:g} to {high:g}, expected only 0 and 1.")


def compute_boundary_f(
    y_pred: torch.Tensor, y: torch.Tensor, max_distance: int = 5, include_background: bool = True
) -> torch.Tensor:
    r"""Boundary F score per image and class, averaged over tolerances of 1 to ``max_distance`` pixels.

    The *boundary* of a mask :math:`m` is one pixel wide: pixel :math:`p` belongs to it if :math:`m(p)` differs from
    :math:`m(p + o)` for any forward offset :math:`o \in \{0, 1\}^N \setminus \{0\}` (right, lower and diagonal
    neighbour in 2-D, seven neighbours in 3-D). Neighbours outside the image do not count, so a mask that covers the
    whole image has no boundary, like an empty one. With the boundaries :math:`\partial P` and :math:`\partial T`,
    :math:`d` the Euclidean distance in pixels and :math:`R` = ``max_distance``,

    .. math::
        P_r = \frac{|\{p \in \partial P : d(p, \partial T) \le r\}|}{|\partial P|}, \quad
        R_r = \frac{|\{p \in \partial T : d(p, \partial P) \le r\}|}{|\partial T|}, \quad
        F = \frac{1}{R} \sum_{r=1}^{R} \frac{2 P_r R_r}{P_r + R_r}

    with a term of 0 where :math:`P_r + R_r = 0`. Both boundaries empty: 1. Exactly one empty: 0.

    Args:
        y_pred: binarised prediction, one-hot, shape [B, C, H, W] or [B, C, H, W, D], values 0 and 1.
        y: binarised ground truth of the same shape.
        max_distance: largest tolerance in pixels, at least 1. SegDiff uses 5.
        include_background: False drops channel 0 if there is more than one channel.

    Returns:
        Scores in 0..1, float32, shape [B, C] (one column less without background), on the device of ``y_pred``.

    Raises:
        ValueError: the shapes differ or are not 2-D or 3-D images, values are NaN or not binary, or ``max_distance``
            is not a whole number above 0.

    Example:
        >>> mask = torch.zeros(1, 1, 16, 16)
        >>> mask[..., 4:9, 4:9] = 1
        >>> compute_boundary_f(mask, mask)
        tensor([[1.]])
    """
    if isinstance(max_distance, bool) or int(max_distance) != max_distance or max_distance < 1:
        raise ValueError(f"max_distance is {max_distance!r}, expected a whole number of pixels, at least 1.")
    _check("y_pred", y_pred)
    _check("y", y)
    if y_pred.shape != y.shape:
        raise ValueError(f"y_pred has shape {tuple(y_pred.shape)} and y {tuple(y.shape)}, expected equal shapes.")
    device = y_pred.device
    if not include_background:
        y_pred, y = ignore_background(y_pred=y_pred, y=y)
    predictions, truths = y_pred.bool().cpu().numpy(), y.bool().cpu().numpy()
    scores = [
        [boundary_f_of_counts(*boundary_counts(p, t, int(max_distance))) for p, t in zip(p_image, t_image, strict=True)]
        for p_image, t_image in zip(predictions, truths, strict=True)
    ]
    return torch.tensor(np.array(scores), dtype=torch.float32, device=device).reshape(predictions.shape[:2])


class BoundaryFMetric(ReducedMetric):
    """Mean boundary F score over a data set; see :func:`compute_boundary_f` for the definition and the empty cases.

    Args:
        max_distance: largest tolerance in pixels; the score is the mean over tolerances 1..``max_distance``.
        include_background: False drops channel 0 if there is more than one channel.
        reduction: how ``aggregate`` reduces the [images, classes] buffer, see :class:`monai.utils.MetricReduction`.
        get_not_nans: True makes ``aggregate`` return ``(score, not_nans)``.

    Example:
        >>> metric = BoundaryFMetric()
        >>> mask = torch.zeros(2, 1, 16, 16)
        >>> mask[..., 4:9, 4:9] = 1
        >>> _ = metric(y_pred=mask, y=mask)
        >>> metric.aggregate().item()
        1.0
    """

    def __init__(
        self,
        max_distance: int = 5,
        include_background: bool = True,
        reduction: MetricReduction | str = MetricReduction.MEAN,
        get_not_nans: bool = False,
    ) -> None:
        super().__init__(reduction, get_not_nans)
        self.max_distance = max_distance
        self.include_background = include_background

    def _compute_tensor(self, y_pred: torch.Tensor, y: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """Scores of one batch, shape [B, C]; arguments and errors as in :func:`compute_boundary_f`."""
        return compute_boundary_f(y_pred, y, self.max_distance, self.include_background)
