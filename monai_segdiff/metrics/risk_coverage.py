# SPDX-License-Identifier: Apache-2.0
"""Risk-coverage curve: what is still wrong if only the surest pixels are kept."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from monai.metrics.metric import CumulativeIterationMetric
from monai.metrics.utils import do_metric_reduction
from monai.utils import MetricReduction

from .per_image import compute_per_image

__all__ = ["RiskCoverageMetric", "area_under_risk_coverage", "oracle_risk", "risk_coverage_curve"]


def risk_coverage_curve(
    uncertainty: np.ndarray, wrong: np.ndarray, num_points: int = 100
) -> tuple[np.ndarray, np.ndarray]:
    r"""Share of wrong pixels among the pixels of lowest uncertainty.

    With N pixels sorted by uncertainty, the kept part of coverage :math:`c` is the first :math:`cN` of them, and

    .. math::
        \text{risk}(c) = \frac{E(cN)}{cN}

    where :math:`E(m)` is the number of wrong ones among the first :math:`m`. Pixels of equal uncertainty count with the
    mean error of all of them, the expectation over their random order, so that the curve does not depend on the order
    of the pixels. Between whole numbers :math:`E` is linear. The risk at coverage 1 is the share of wrong pixels.
    Coverage 0 is left out, because the risk is not defined there.

    Args:
        uncertainty: larger where less sure, any finite numbers, of any shape.
        wrong: 1 where the mask is wrong, 0 where it is right, of the same shape.
        num_points: number K of points, at least 1.

    Returns:
        Coverage 1 / K, 2 / K, ..., 1 and risk in 0..1, each float64 ``[K]``.

    Raises:
        ValueError: the shapes differ or hold nothing, values are not as above, or ``num_points`` is not a whole number
            above 0.

    Example:
        >>> coverage, risk = risk_coverage_curve(np.array([0.3, 0.1, 0.2, 0.2]), np.array([1, 0, 1, 0]), num_points=4)
        >>> risk.tolist()
        [0.0, 0.25, 0.3333333333333333, 0.5]
    """
    if isinstance(num_points, bool) or int(num_points) != num_points or num_points < 1:
        raise ValueError(f"num_points is {num_points!r}, expected a whole number, at least 1.")
    if uncertainty.shape != wrong.shape or not uncertainty.size:
        found = f"uncertainty has shape {uncertainty.shape} and wrong {wrong.shape}"
        raise ValueError(f"{found}, expected equal shapes that are not empty.")
    if not np.isfinite(uncertainty).all():
        raise ValueError("uncertainty holds NaN or infinity, expected finite numbers.")
    if not ((wrong == 0) | (wrong == 1)).all():
        raise ValueError(f"wrong has values from {wrong.min():g} to {wrong.max():g}, expected only 0 and 1.")
    order = np.argsort(uncertainty, axis=None)
    ordered = uncertainty.ravel()[order]
    # Numbers of pixels at which one uncertainty ends and the next begins.
    ends = np.concatenate([[0], np.flatnonzero(ordered[1:] != ordered[:-1]) + 1, [ordered.size]])
    errors = np.concatenate([[0], np.cumsum(wrong.ravel()[order], dtype=np.float64)])
    coverage = np.arange(1, int(num_points) + 1) / int(num_points)
    kept = coverage * ordered.size
    return coverage, np.interp(kept, ends, errors[ends]) / kept


def oracle_risk(error_rate: float, coverage: np.ndarray) -> np.ndarray:
    """Risk of the best possible uncertainty, which puts every wrong pixel after every right one.

    It is ``max(0, 1 - (1 - error_rate) / coverage)``.

    Args:
        error_rate: share of wrong pixels, in 0..1.
        coverage: in (0, 1], of any shape.

    Returns:
        Risk, float64, of that shape.
    """
    return np.maximum(0, 1 - (1 - error_rate) / coverage)


def area_under_risk_coverage(coverage: np.ndarray, risk: np.ndarray) -> dict[str, float]:
    """Summarise a curve of :func:`risk_coverage_curve` by its area. Lower is better.

    An uncertainty that says nothing, such as a constant one, has the share of wrong pixels as its area.

    Args:
        coverage: of the curve.
        risk: of the curve, of one image.

    Returns:
        ``area``, the mean risk over the points; ``oracle_area``, that of :func:`oracle_risk` for as many wrong pixels
        at the same points; and ``excess``, the difference, at least 0.

    Example:
        >>> area_under_risk_coverage(*risk_coverage_curve(np.array([0.1, 0.9]), np.array([0, 1]), num_points=2))
        {'area': 0.25, 'oracle_area': 0.25, 'excess': 0.0}
    """
    area, oracle = float(risk.mean()), float(oracle_risk(risk[-1], coverage).mean())
    return {"area": area, "oracle_area": oracle, "excess": area - oracle}


class RiskCoverageMetric(CumulativeIterationMetric):
    """Area under the risk-coverage curve over a data set; see :func:`risk_coverage_curve` for the definition.

    A call takes uncertainty as ``y_pred`` and wrong pixels as ``y``, as
    :class:`~monai_segdiff.ErrorDetectionMetric` does. It returns, and the buffer holds, the risks: float64 [images,
    classes, num_points]. An image without a wrong pixel has the risk 0 and counts.

    Args:
        num_points: number of points of the curve.
        reduction: how ``aggregate`` reduces the areas [images, classes], see :class:`monai.utils.MetricReduction`.

    Example:
        >>> metric = RiskCoverageMetric(num_points=2)
        >>> _ = metric(y_pred=torch.tensor([[[[0.1, 0.9]]]]), y=torch.tensor([[[[0, 1]]]]))
        >>> metric.aggregate().item()
        0.25
        >>> metric.curve()[1].tolist()
        [0.0, 0.5]
    """

    def __init__(self, num_points: int = 100, reduction: MetricReduction | str = MetricReduction.MEAN) -> None:
        super().__init__()
        self.num_points = num_points
        self.reduction = reduction

    def _compute_tensor(self, y_pred: torch.Tensor, y: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """Risks of one batch, [B, C, num_points]; errors as in :func:`risk_coverage_curve`."""
        return compute_per_image(y_pred, y, partial(_risk, num_points=self.num_points))

    def aggregate(self, reduction: MetricReduction | str | None = None) -> torch.Tensor:
        """Reduce the areas under the curves of everything seen since the last ``reset``.

        Args:
            reduction: overrides the reduction given to the constructor for this call.

        Returns:
            The reduced area: the mean risk over the points of the curve.

        Raises:
            ValueError: nothing has been computed yet.
        """
        return do_metric_reduction(self._risks().mean(-1).float(), reduction or self.reduction)[0]

    def curve(self) -> tuple[np.ndarray, np.ndarray]:
        """Return coverage and the mean risk over images and classes, each float64 ``[num_points]``.

        Raises:
            ValueError: nothing has been computed yet.
        """
        coverage = np.arange(1, self.num_points + 1) / self.num_points
        return coverage, self._risks().mean((0, 1)).cpu().numpy()

    def _risks(self) -> torch.Tensor:
        risks = self.get_buffer()
        if not isinstance(risks, torch.Tensor):
            raise ValueError(f"the buffer holds {type(risks).__name__}, expected a tensor; call the metric first.")
        return risks


def _risk(uncertainty: np.ndarray, wrong: np.ndarray, num_points: int) -> np.ndarray:
    return risk_coverage_curve(uncertainty, wrong, num_points)[1]
