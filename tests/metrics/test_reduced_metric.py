# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch

from monai_segdiff.metrics.reduced_metric import ReducedMetric


class FirstPixel(ReducedMetric):
    def _compute_tensor(self, y_pred: torch.Tensor, y: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return y_pred[:, :, 0]


SCORES = torch.tensor([[0.0, 1.0], [0.5, torch.nan]])[..., None]


@pytest.mark.parametrize(
    ("reduction", "expected", "count"),
    [
        ("mean", [0.5], 2),
        ("sum", 1.5, 3),
        ("mean_batch", [0.25, 1.0], [2, 1]),
        ("mean_channel", [0.5, 0.5], [2, 1]),
    ],
)
def test_reductions(reduction: str, expected: float | list[float], count: int | list[int]) -> None:
    metric = FirstPixel(reduction=reduction, get_not_nans=True)
    metric(y_pred=SCORES, y=SCORES)
    score, not_nans = metric.aggregate()
    assert score.tolist() == expected
    assert not_nans.tolist() == count
    plain = FirstPixel()
    plain(y_pred=SCORES[:1], y=SCORES[:1])
    plain(y_pred=[SCORES[1]], y=[SCORES[1]])
    assert plain.aggregate(reduction=reduction).tolist() == expected


def test_aggregate_leaves_the_buffer_whole() -> None:
    metric = FirstPixel()
    metric(y_pred=SCORES, y=SCORES)
    assert metric.aggregate() == metric.aggregate()
    assert metric.aggregate(reduction="none").isnan().sum() == 1


def test_nothing_computed() -> None:
    metric = FirstPixel()
    with pytest.raises(ValueError, match="call the metric first"):
        metric.aggregate()
    metric(y_pred=SCORES, y=SCORES)
    metric.reset()
    with pytest.raises(ValueError, match="call the metric first"):
        metric.aggregate()
