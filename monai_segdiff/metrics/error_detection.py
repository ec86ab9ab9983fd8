# SPDX-License-Identifier: Apache-2.0
"""How well uncertainty finds the pixels at which a mask is wrong."""

from __future__ import annotations

import numpy as np
import torch
from monai.utils import MetricReduction
from scipy.stats import rankdata

from .per_image import compute_per_image
from .reduced_metric import ReducedMetric

__all__ = ["ErrorDetectionMetric", "compute_error_detection"]


def _area_under_roc(uncertainty: np.ndarray, wrong: np.ndarray) -> float:
    if not np.isfinite(uncertainty).all():
        raise ValueError("y_pred holds NaN or infinity, expected finite uncertainties.")
    if not ((wrong == 0) | (wrong == 1)).all():
        raise ValueError(f"y has values from {wrong.min():g} to {wrong.max():g}, expected 1 where wrong, 0 elsewhere.")
    is_wrong = wrong.ravel() == 1
    positives = int(is_wrong.sum())
    negatives = is_wrong.size - positives
    if not positives or not negatives:
        return float("nan")
    rank_sum = rankdata(uncertainty.ravel())[is_wrong].sum()
    return float((rank_sum - positives * (positives + 1) / 2) / (positives * negatives))


def compute_error_detection(y_pred: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    r"""Area under the ROC curve of uncertainty as a detector of wrong pixels, per image and class.

    It is the probability that a random wrong pixel :math:`i` is more uncertain than a random right pixel :math:`j` of
    the same image, ties counting half:

    .. math::
        P(u_i > u_j) + \tfrac{1}{2} P(u_i = u_j)
        = \frac{\sum_{i \text{ wrong}} r_i - W (W + 1) / 2}{W (N - W)}

    with :math:`r_i` the rank of a pixel among all :math:`N`, the mean rank for ties, and :math:`W` the number of wrong
    pixels. 1: every wrong pixel is more uncertain than every right one. 0.5: no better than chance, such as a constant
    uncertainty. It is :func:`monai.metrics.compute_roc_auc` of the pixels, which is too slow for images.

    Args:
        y_pred: uncertainty, larger where less sure, any finite numbers, [B, C, H, W] or [B, C, H, W, D].
        y: 1 where the mask is wrong, 0 where it is right, of the same shape.

    Returns:
        Areas in 0..1, float32 [B, C], on the device of ``y_pred``. NaN where no pixel or every pixel is wrong, because
        the area is not defined there.

    Raises:
        ValueError: the shapes differ or are not 2-D or 3-D images, or values are not as above.

    Example:
        >>> uncertainty = torch.tensor([[[[0.1, 0.9], [0.2, 0.2]]]])
        >>> compute_error_detection(uncertainty, torch.tensor([[[[0, 1], [1, 0]]]]))
        tensor([[0.8750]])
    """
    return compute_per_image(y_pred, y, _area_under_roc).float()


class ErrorDetectionMetric(ReducedMetric):
    """Mean area under the ROC curve over a data set; see :func:`compute_error_detection` for the definition.

    Images where it is not defined (NaN: no pixel or every pixel is wrong) are left out of means and sums.

    Args:
        reduction: how ``aggregate`` reduces the [images, classes] buffer, see :class:`monai.utils.MetricReduction`.
        get_not_nans: True makes ``aggregate`` return ``(score, not_nans)``, where the second is the number of images
            that counted.

    Example:
        >>> metric = ErrorDetectionMetric()
        >>> uncertainty = torch.tensor([[[[0.1, 0.9], [0.2, 0.2]]]])
        >>> _ = metric(y_pred=uncertainty, y=torch.tensor([[[[0, 1], [1, 0]]]]))
        >>> metric.aggregate().item()
        0.875
    """

    def _compute_tensor(self, y_pred: torch.Tensor, y: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """Areas of one batch, [B, C]; arguments and errors as in :func:`compute_error_detection`."""
        return compute_error_detection(y_pred, y)

    def _reduce(self, scores: torch.Tensor, reduction: MetricReduction | str) -> tuple[torch.Tensor, torch.Tensor]:
        """Reduce as MONAI does; NaN where no image counted."""
        area, not_nans = super()._reduce(scores, reduction)
        # MONAI gives 0 there, which would read as the worst area.
        return torch.where(not_nans > 0, area, torch.nan), not_nans
