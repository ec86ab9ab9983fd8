# SPDX-License-Identifier: Apache-2.0
"""Area ratio: what the released SegDiff code (arXiv 2112.00390) reports as "WCov"."""

from __future__ import annotations

import torch
from monai.metrics.utils import ignore_background
from monai.utils import MetricReduction, convert_to_tensor

from .reduced_metric import ReducedMetric

__all__ = ["AreaRatioMetric", "compute_area_ratio"]


def _areas(name: str, mask: torch.Tensor) -> torch.Tensor:
    """Foreground pixels of each image and channel, int64 [B, C]."""
    if mask.ndim not in (4, 5):
        raise ValueError(f"{name} has shape {tuple(mask.shape)}, expected [B, C, H, W] or [B, C, H, W, D].")
    if torch.isnan(mask).any():
        raise ValueError(f"{name} holds NaN, expected only 0 and 1.")
    if not ((mask == 0) | (mask == 1)).all():
        low, high = float(mask.min()), float(mask.max())
        raise ValueError(f"{name} is not binarised: values from {low:g} to {high:g}, expected only 0 and 1.")
    return convert_to_tensor(mask, track_meta=False).bool().flatten(2).sum(dim=2)


def compute_area_ratio(y_pred: torch.Tensor, y: torch.Tensor, include_background: bool = True) -> torch.Tensor:
    r"""Ratio of the smaller to the larger foreground area, per image and class.

    With :math:`|P|` and :math:`|T|` the numbers of foreground pixels of prediction and truth,

    .. math::
        \frac{\min(|P|, |T|)}{\max(|P|, |T|)}

    This is what the released SegDiff code computes under the name "WCov". Overlap plays no part: two disjoint masks of
    equal area score 1. It is not the weighted coverage of the literature, which is :func:`compute_weighted_coverage`.
    Both masks empty: 1 (the released code divides by zero there). Exactly one empty: 0.

    Args:
        y_pred: binarised prediction, one-hot, shape [B, C, H, W] or [B, C, H, W, D], values 0 and 1.
        y: binarised ground truth of the same shape.
        include_background: False drops channel 0 if there is more than one channel.

    Returns:
        Scores in 0..1, float32, shape [B, C] (one column less without background), on the device of ``y_pred``.

    Raises:
        ValueError: the shapes differ or are not 2-D or 3-D images, or values are NaN or not binary.

    Example:
        >>> mask = torch.zeros(1, 1, 16, 16)
        >>> mask[..., 4:8, 4:8] = 1
        >>> compute_area_ratio(mask, mask.roll(8, dims=-1))
        tensor([[1.]])
    """
    predicted, true = _areas("y_pred", y_pred), _areas("y", y)
    if y_pred.shape != y.shape:
        raise ValueError(f"y_pred has shape {tuple(y_pred.shape)} and y {tuple(y.shape)}, expected equal shapes.")
    if not include_background:
        predicted, true = ignore_background(y_pred=predicted, y=true)
    true = true.to(predicted.device)
    larger = torch.maximum(predicted, true)
    ratio = torch.minimum(predicted, true) / larger.clamp(min=1)
    return torch.where(larger == 0, 1.0, ratio)


class AreaRatioMetric(ReducedMetric):
    """Mean area ratio over a data set; see :func:`compute_area_ratio` for the definition and the empty cases.

    Args:
        include_background: False drops channel 0 if there is more than one channel.
        reduction: how ``aggregate`` reduces the [images, classes] buffer, see :class:`monai.utils.MetricReduction`.
        get_not_nans: True makes ``aggregate`` return ``(score, not_nans)``.

    Example:
        >>> metric = AreaRatioMetric()
        >>> mask = torch.zeros(2, 1, 16, 16)
        >>> mask[..., 4:9, 4:9] = 1
        >>> _ = metric(y_pred=mask, y=mask)
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
        """Scores of one batch, shape [B, C]; arguments and errors as in :func:`compute_area_ratio`."""
        return compute_area_ratio(y_pred, y, self.include_background)
