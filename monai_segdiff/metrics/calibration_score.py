# SPDX-License-Identifier: Apache-2.0
"""Calibration as SegDiff (arXiv 2112.00390) scores it: whether probabilities mean what they say."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from monai.metrics.metric import CumulativeIterationMetric
from monai.metrics.utils import do_metric_reduction, ignore_background
from monai.utils import MetricReduction

from .per_image import compute_per_image

__all__ = ["CalibrationScoreMetric", "calibration_counts", "calibration_scores", "compute_calibration_score"]


def calibration_counts(probability: np.ndarray, truth: np.ndarray, num_bins: int = 10) -> np.ndarray:
    """Count what the calibration of some pixels is made of; the counts of several images may be added.

    With K = ``num_bins``, bin k = 0..K-1 holds the probabilities in [k / K, (k + 1) / K), the last one 1 as well. An
    edge is rounded to the precision of the probabilities, so that a float32 0.7 lies in the bin that begins at 0.7.

    Args:
        probability: foreground probabilities in [0, 1], of any shape; numbers that are not floating point count as
            float64.
        truth: 0 or 1 (or boolean), of the same shape.
        num_bins: K, at least 1. SegDiff uses 10.

    Returns:
        float64 ``[K, 3]``: in each bin the number of pixels, the sum of their probabilities, and the number of
        foreground pixels.

    Raises:
        ValueError: the shapes differ, a probability is NaN or outside [0, 1], the truth has other values, or
            ``num_bins`` is not a whole number above 0.

    Example:
        >>> calibration_counts(np.array([0.25, 0.25, 1.0]), np.array([0, 1, 1]), num_bins=2).tolist()
        [[2.0, 0.5, 1.0], [1.0, 1.0, 1.0]]
    """
    if isinstance(num_bins, bool) or int(num_bins) != num_bins or num_bins < 1:
        raise ValueError(f"num_bins is {num_bins!r}, expected a whole number, at least 1.")
    if probability.shape != truth.shape:
        raise ValueError(f"probability has shape {probability.shape} and truth {truth.shape}, expected equal shapes.")
    p = (probability if np.issubdtype(probability.dtype, np.floating) else probability.astype(np.float64)).ravel()
    # NaN fails these as well.
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"probability has values from {p.min():g} to {p.max():g}, expected 0 to 1.")
    if not ((truth == 0) | (truth == 1)).all():
        raise ValueError(f"truth has values from {truth.min():g} to {truth.max():g}, expected only 0 and 1.")
    edges = np.arange(1, num_bins) / num_bins
    bins = np.searchsorted(edges.astype(p.dtype), p, side="right")
    count = partial(np.bincount, bins, minlength=int(num_bins))
    return np.stack([count().astype(np.float64), count(weights=p), count(weights=truth.ravel())], axis=1)


def calibration_scores(counts: np.ndarray) -> dict[str, float]:
    r"""Scores of (summed) :func:`calibration_counts`. Lower is better, 0 is perfect.

    With :math:`n_b` of :math:`N` pixels in bin :math:`b` of :math:`K`, :math:`p_b` their mean probability and
    :math:`y_b` their share of foreground:

    .. math::
        \text{expected\_calibration\_error} = \sum_b \frac{n_b}{N} |p_b - y_b|, \quad
        \text{paper\_calibration\_score} = \frac{1}{K} \sum_b (p_b - y_b)^2

    The second is the definition of SegDiff, which leaves open what an empty bin counts and whether the pixels of all
    images are pooled. Here an empty bin adds 0 and still counts among the K; adding counts before this call pools. It
    weighs a bin of few pixels like one of many.

    Args:
        counts: ``[K, 3]``.

    Returns:
        The two scores, in [0, 1], and ``empty_bins``, the number of bins without a pixel.

    Raises:
        ValueError: another shape, or no pixel was counted.

    Example:
        >>> calibration_scores(calibration_counts(np.array([0.25, 0.25]), np.array([0, 1])))
        {'expected_calibration_error': 0.25, 'paper_calibration_score': 0.00625, 'empty_bins': 9}
    """
    if np.ndim(counts) != 2 or np.shape(counts)[1] != 3:
        raise ValueError(f"counts have shape {np.shape(counts)}, expected [num_bins, 3].")
    pixels, probability, foreground = np.asarray(counts, dtype=np.float64).T
    if not pixels.sum() > 0:
        raise ValueError("counts hold no pixel, expected at least one.")
    # Empty bins have sums of 0, so that their gap is 0 as well.
    gap = (probability - foreground) / np.maximum(pixels, 1)
    return {
        "expected_calibration_error": float(pixels @ np.abs(gap) / pixels.sum()),
        "paper_calibration_score": float((gap**2).mean()),
        "empty_bins": int((pixels == 0).sum()),
    }


def _paper_score(counts: np.ndarray) -> float:
    return calibration_scores(counts)["paper_calibration_score"]


def compute_calibration_score(
    y_pred: torch.Tensor, y: torch.Tensor, num_bins: int = 10, include_background: bool = True
) -> torch.Tensor:
    """SegDiff's calibration score per image and class; see :func:`calibration_scores` for the definition.

    Args:
        y_pred: probabilities in [0, 1], shape [B, C, H, W] or [B, C, H, W, D].
        y: binarised ground truth of the same shape, one-hot, values 0 and 1.
        num_bins: number of uniform bins on [0, 1]. SegDiff uses 10.
        include_background: False drops channel 0 if there is more than one channel.

    Returns:
        Scores in 0..1, lower is better, float32, shape [B, C] (one column less without background), on the device of
        ``y_pred``.

    Raises:
        ValueError: the shapes differ or are not 2-D or 3-D images, or values are not as above.

    Example:
        >>> compute_calibration_score(torch.ones(1, 1, 4, 4), torch.zeros(1, 1, 4, 4))
        tensor([[0.1000]])
    """
    if not include_background:
        y_pred, y = ignore_background(y_pred=y_pred, y=y)
    return compute_per_image(y_pred, y, lambda p, t: _paper_score(calibration_counts(p, t, num_bins))).float()


class CalibrationScoreMetric(CumulativeIterationMetric):
    """SegDiff's calibration score over a data set; see :func:`calibration_scores` for the definition.

    A call returns, and the buffer holds, the counts: float64 [images, classes, num_bins, 3].

    Args:
        num_bins: number of uniform bins on [0, 1]. SegDiff uses 10.
        include_background: False drops channel 0 if there is more than one channel.
        pooled: True: ``aggregate`` gives, for each class, the score of the pixels of all images together. False: the
            scores of the single images are reduced as those of other metrics are. Pooled is the default because the
            bins of a single image may be empty, which lowers its score, or hold a few pixels only, which makes it
            noisy. The paper does not say which one it reports.
        reduction: how ``aggregate`` reduces the scores, [1, classes] if ``pooled``, else [images, classes]; see
            :class:`monai.utils.MetricReduction`.

    Example:
        >>> metric = CalibrationScoreMetric()
        >>> _ = metric(y_pred=torch.full((2, 1, 4, 4), 0.5), y=torch.stack([torch.zeros(1, 4, 4), torch.ones(1, 4, 4)]))
        >>> metric.aggregate().item()
        0.0
    """

    def __init__(
        self,
        num_bins: int = 10,
        include_background: bool = True,
        pooled: bool = True,
        reduction: MetricReduction | str = MetricReduction.MEAN,
    ) -> None:
        super().__init__()
        self.num_bins = num_bins
        self.include_background = include_background
        self.pooled = pooled
        self.reduction = reduction

    def _compute_tensor(self, y_pred: torch.Tensor, y: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """Counts of one batch; arguments and errors as in :func:`compute_calibration_score`."""
        if not self.include_background:
            y_pred, y = ignore_background(y_pred=y_pred, y=y)
        return compute_per_image(y_pred, y, partial(calibration_counts, num_bins=self.num_bins))

    def aggregate(self, reduction: MetricReduction | str | None = None) -> torch.Tensor:
        """Score everything seen since the last ``reset``.

        Args:
            reduction: overrides the reduction given to the constructor for this call.

        Returns:
            The reduced score, float32.

        Raises:
            ValueError: nothing has been computed yet.
        """
        counts = self.get_buffer()
        if not isinstance(counts, torch.Tensor):
            raise ValueError(f"the buffer holds {type(counts).__name__}, expected a tensor; call the metric first.")
        images = counts.sum(0, keepdim=True) if self.pooled else counts
        scores = [[_paper_score(one) for one in image] for image in images.cpu().numpy()]
        tensor = torch.tensor(scores, dtype=torch.float32, device=counts.device)
        return do_metric_reduction(tensor, reduction or self.reduction)[0]
