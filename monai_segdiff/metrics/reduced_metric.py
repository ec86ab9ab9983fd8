# SPDX-License-Identifier: Apache-2.0
"""What metrics with one score for each image and class have in common."""

from __future__ import annotations

import torch
from monai.metrics.metric import CumulativeIterationMetric
from monai.metrics.utils import do_metric_reduction
from monai.utils import MetricReduction

__all__ = ["ReducedMetric"]


class ReducedMetric(CumulativeIterationMetric):
    """Base of metrics whose ``_compute_tensor`` gives scores of shape [B, C].

    Args:
        reduction: how ``aggregate`` reduces the [images, classes] buffer, see :class:`monai.utils.MetricReduction`.
        get_not_nans: True makes ``aggregate`` return ``(score, not_nans)``.
    """

    def __init__(self, reduction: MetricReduction | str = MetricReduction.MEAN, get_not_nans: bool = False) -> None:
        super().__init__()
        self.reduction = reduction
        self.get_not_nans = get_not_nans

    def aggregate(
        self, reduction: MetricReduction | str | None = None
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Reduce everything seen since the last ``reset``.

        Args:
            reduction: overrides the reduction given to the constructor for this call.

        Returns:
            The reduced score, or ``(score, not_nans)`` if ``get_not_nans``.

        Raises:
            ValueError: nothing has been computed yet.
        """
        data = self.get_buffer()
        if not isinstance(data, torch.Tensor):
            raise ValueError(f"the buffer holds {type(data).__name__}, expected a tensor; call the metric first.")
        score, not_nans = self._reduce(data, reduction or self.reduction)
        return (score, not_nans) if self.get_not_nans else score

    def _reduce(self, scores: torch.Tensor, reduction: MetricReduction | str) -> tuple[torch.Tensor, torch.Tensor]:
        """Reduce scores ``[B, C]``; they may be written to."""
        return do_metric_reduction(scores, reduction)
