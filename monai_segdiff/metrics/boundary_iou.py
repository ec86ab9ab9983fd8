# SPDX-License-Identifier: Apache-2.0
"""Boundary IoU: overlap of the bands along two contours, as DDPS (arXiv 2306.01721) evaluates it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from monai.metrics.utils import ignore_background
from monai.utils import MetricReduction
from scipy.ndimage import binary_erosion, distance_transform_cdt, distance_transform_edt

from .per_image import compute_per_image
from .reduced_metric import ReducedMetric

__all__ = ["BoundaryIoUMetric", "boundary_iou_counts", "boundary_iou_of_counts", "compute_boundary_iou"]


def boundary_iou_counts(
    prediction: np.ndarray,
    truth: np.ndarray,
    distance: float | None = None,
    relative_distance: float = 0.02,
    spacing: Sequence[float] | None = None,
) -> np.ndarray:
    """Count the pixels that both bands share and those in either; the counts of several images may be added.

    See :func:`compute_boundary_iou` for the arguments and the definition.

    Args:
        prediction: mask of 0 and 1, ``[*spatial]``.
        truth: mask of the same shape.
        distance: width of the band.
        relative_distance: width of the band as a share of the image's diagonal, unless ``distance`` is given.
        spacing: size of a voxel along each axis.

    Returns:
        int64 ``[2]``: intersection and union.

    Raises:
        ValueError: as :func:`compute_boundary_iou`.

    Example:
        >>> boundary_iou_counts(np.eye(3), np.ones((3, 3)))
        array([2, 9])
    """
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction has shape {prediction.shape} and truth {truth.shape}, expected equal shapes.")
    width = _band_width(truth.shape, distance, relative_distance, spacing)
    bands = []
    for name, mask in (("prediction", prediction), ("truth", truth)):
        # NaN fails this as well.
        if not ((mask == 0) | (mask == 1)).all():
            raise ValueError(f"{name} has values from {mask.min():g} to {mask.max():g}, expected only 0 and 1.")
        bands.append(_band(mask.astype(bool), width, spacing))
    return np.array([np.count_nonzero(bands[0] & bands[1]), np.count_nonzero(bands[0] | bands[1])])


def _band_width(
    shape: tuple[int, ...], distance: float | None, relative_distance: float, spacing: Sequence[float] | None
) -> float:
    if spacing is not None and (len(spacing) != len(shape) or not all(0 < size < math.inf for size in spacing)):
        raise ValueError(f"spacing is {spacing!r}, expected {len(shape)} numbers above 0, one for each axis.")
    if not 0 < relative_distance < math.inf:
        raise ValueError(f"relative_distance is {relative_distance!r}, expected a number above 0.")
    if distance is None:
        width = relative_distance * math.hypot(*np.multiply(shape, 1 if spacing is None else spacing))
        return width if spacing is not None else max(1, round(width))
    if not 0 < distance < math.inf or (spacing is None and int(distance) != distance):
        expected = "a whole number of pixels, at least 1" if spacing is None else "a number above 0"
        raise ValueError(f"distance is {distance!r}, expected {expected}.")
    return distance


def _band(mask: np.ndarray, width: float, spacing: Sequence[float] | None) -> np.ndarray:
    """Pixels of a boolean mask that lie at most ``width`` from the outside, which begins at the image's frame."""
    band = np.zeros_like(mask)
    if not mask.any():
        return band
    # All that surrounds the mask is outside, so that the part of the image that holds the mask is enough.
    box = tuple(slice(int(found.min()), int(found.max()) + 1) for found in np.nonzero(mask))
    inside = np.pad(mask[box], 1)
    if spacing is None:
        near = distance_transform_cdt(inside, "chessboard") <= width
    else:
        near = distance_transform_edt(inside, sampling=spacing) <= width
        near |= ~binary_erosion(inside)
    band[box] = (inside & near)[(slice(1, -1),) * mask.ndim]
    return band


def boundary_iou_of_counts(intersection: np.ndarray, union: np.ndarray) -> np.ndarray:
    """Boundary IoU of (summed) :func:`boundary_iou_counts`.

    Args:
        intersection: of any shape ``[...]``.
        union: of the same shape.

    Returns:
        Scores in 0..1, float64 ``[...]``; NaN where the union is 0, so that there is no mask.
    """
    above, below = np.asarray(intersection, dtype=np.float64), np.asarray(union, dtype=np.float64)
    return np.divide(above, below, out=np.full(below.shape, np.nan), where=below > 0)


def compute_boundary_iou(
    y_pred: torch.Tensor,
    y: torch.Tensor,
    distance: float | None = None,
    relative_distance: float = 0.02,
    spacing: Sequence[float] | None = None,
    include_background: bool = True,
) -> torch.Tensor:
    r"""Boundary IoU per image and class.

    The *band* :math:`\beta(m)` of a mask :math:`m` is what its erosion by :math:`d` takes away: those of its pixels
    that lie at most :math:`d` from a pixel that is not of the mask. Outside of the image nothing is of the mask, so
    that a mask that touches the frame has a boundary there. For prediction :math:`P` and truth :math:`T`,

    .. math::
        \frac{|\beta(P) \cap \beta(T)|}{|\beta(P) \cup \beta(T)|}

    Without ``spacing``, distances are in pixels and erosion is by a square (cube) of side :math:`2 d + 1`, as
    published; :math:`d` = round(``relative_distance`` x diagonal), at least 1. With ``spacing``, distances are
    Euclidean, between centres of voxels, in its unit (mm); :math:`d` is not rounded, and voxels that share a face with
    the outside are in the band however large they are.

    Args:
        y_pred: binarised prediction, one-hot, shape [B, C, H, W] or [B, C, H, W, D], values 0 and 1.
        y: binarised ground truth of the same shape.
        distance: d; in whole pixels, or, with ``spacing``, in its unit. None: relative to the image.
        relative_distance: d as a share of the image's diagonal, which has the unit of d. The paper's code has 0.02.
        spacing: size of a voxel along each axis, the same for all images, or None.
        include_background: False drops channel 0 if there is more than one channel.

    Returns:
        Scores in 0..1, float32, shape [B, C] (one column less without background), on the device of ``y_pred``. Both
        masks empty: NaN, which MONAI's reductions leave out. Exactly one empty: 0.

    Raises:
        ValueError: the shapes differ or are not 2-D or 3-D images, values are NaN or not binary, or ``distance``,
            ``relative_distance`` or ``spacing`` is not as above.

    Example:
        >>> mask = torch.zeros(1, 1, 16, 16)
        >>> mask[..., 4:9, 4:9] = 1
        >>> compute_boundary_iou(mask, mask)
        tensor([[1.]])
    """
    return _scores(_counts(y_pred, y, distance, relative_distance, spacing, include_background))


def _counts(
    y_pred: torch.Tensor,
    y: torch.Tensor,
    distance: float | None,
    relative_distance: float,
    spacing: Sequence[float] | None,
    include_background: bool,
) -> torch.Tensor:
    """Counts of one batch, float64 ``[B, C, 2]``."""
    if not include_background:
        y_pred, y = ignore_background(y_pred=y_pred, y=y)
    compute = partial(boundary_iou_counts, distance=distance, relative_distance=relative_distance, spacing=spacing)
    return compute_per_image(y_pred, y, compute)


def _scores(counts: torch.Tensor) -> torch.Tensor:
    """Scores of counts ``[B, C, 2]``, float32 ``[B, C]``."""
    scores = boundary_iou_of_counts(*(part.cpu().numpy() for part in counts.unbind(-1)))
    return torch.from_numpy(scores).to(counts.device).float()


class BoundaryIoUMetric(ReducedMetric):
    """Boundary IoU over a data set; see :func:`compute_boundary_iou` for the definition and the empty cases.

    A call returns, and the buffer holds, the counts: float64 [images, classes, 2], intersection and union. It takes
    ``spacing`` as MONAI's surface metrics do: ``metric(y_pred=..., y=..., spacing=(1.0, 1.0, 2.5))``.

    Args:
        distance: width of the band in pixels, or in the unit of the spacing. None: relative to the image.
        relative_distance: width of the band as a share of the image's diagonal. The paper's code has 0.02.
        include_background: False drops channel 0 if there is more than one channel.
        pooled: True: ``aggregate`` gives, for each class, the quotient of the summed counts of all images, which the
            paper's code reports. False: the scores of the single images are reduced as those of other metrics are.
        reduction: how ``aggregate`` reduces the scores, [1, classes] if ``pooled``, else [images, classes]; see
            :class:`monai.utils.MetricReduction`. Classes that no image has are left out.
        get_not_nans: True makes ``aggregate`` return ``(score, not_nans)``.

    Example:
        >>> metric = BoundaryIoUMetric()
        >>> mask = torch.zeros(2, 1, 16, 16)
        >>> mask[..., 4:9, 4:9] = 1
        >>> _ = metric(y_pred=mask, y=mask)
        >>> metric.aggregate().item()
        1.0
    """

    def __init__(
        self,
        distance: float | None = None,
        relative_distance: float = 0.02,
        include_background: bool = True,
        pooled: bool = True,
        reduction: MetricReduction | str = MetricReduction.MEAN,
        get_not_nans: bool = False,
    ) -> None:
        super().__init__(reduction, get_not_nans)
        self.distance = distance
        self.relative_distance = relative_distance
        self.include_background = include_background
        self.pooled = pooled

    def _compute_tensor(  # type: ignore[override]
        self, y_pred: torch.Tensor, y: torch.Tensor, spacing: Sequence[float] | None = None
    ) -> torch.Tensor:
        """Counts of one batch; arguments and errors as in :func:`compute_boundary_iou`."""
        return _counts(y_pred, y, self.distance, self.relative_distance, spacing, self.include_background)

    def _reduce(self, scores: torch.Tensor, reduction: MetricReduction | str) -> tuple[torch.Tensor, torch.Tensor]:
        """Reduce counts ``[B, C, 2]``."""
        return super()._reduce(_scores(scores.sum(0, keepdim=True) if self.pooled else scores), reduction)
