# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_segdiff.metrics.area_ratio import AreaRatioMetric, compute_area_ratio
from monai_segdiff.metrics.weighted_coverage import compute_weighted_coverage


def mask_of(area: int, start: int = 0) -> torch.Tensor:
    mask = torch.zeros(60)
    mask[start : start + area] = 1
    return mask.reshape(1, 1, 10, 6)


@pytest.mark.parametrize("shape", [(2, 3, 9, 7), (1, 2, 5, 4, 6)])
def test_random_masks_against_brute_force(shape: tuple[int, ...]) -> None:
    generator = np.random.default_rng(0)
    prediction, truth = generator.random(shape) < 0.3, generator.random(shape) < 0.6
    found = compute_area_ratio(torch.from_numpy(prediction), torch.from_numpy(truth))
    assert found.shape == shape[:2]
    assert found.dtype == torch.float32
    for image in range(shape[0]):
        for channel in range(shape[1]):
            areas = sorted(np.count_nonzero(mask[image, channel]) for mask in (prediction, truth))
            assert found[image, channel].item() == pytest.approx(areas[0] / areas[1])


@pytest.mark.parametrize(
    ("predicted", "true", "expected"),
    [(0, 0, 1.0), (0, 9, 0.0), (9, 0, 0.0), (12, 9, 0.75), (9, 12, 0.75), (60, 60, 1.0)],
)
def test_areas(predicted: int, true: int, expected: float) -> None:
    assert compute_area_ratio(mask_of(predicted), mask_of(true)).item() == expected


def test_overlap_plays_no_part() -> None:
    prediction, truth = mask_of(10), mask_of(10, start=30)
    assert compute_area_ratio(prediction, truth).item() == 1
    assert compute_weighted_coverage(prediction, truth).item() == 0


def test_background() -> None:
    prediction = torch.cat([mask_of(50), mask_of(10)], dim=1)
    truth = torch.cat([mask_of(40), mask_of(20)], dim=1)
    assert compute_area_ratio(prediction, truth).tolist() == [[pytest.approx(0.8), 0.5]]
    assert compute_area_ratio(prediction, truth, include_background=False).tolist() == [[0.5]]
    assert compute_area_ratio(mask_of(1), mask_of(2), include_background=False).tolist() == [[0.5]]


@pytest.mark.parametrize("kind", [torch.uint8, torch.bool, torch.bfloat16, torch.int64])
def test_types(kind: torch.dtype) -> None:
    found = compute_area_ratio(MetaTensor(mask_of(4).to(kind)), MetaTensor(mask_of(5).to(kind)))
    assert type(found) is torch.Tensor
    assert found.item() == pytest.approx(0.8)


def test_metric() -> None:
    metric = AreaRatioMetric(include_background=False, reduction="mean_batch", get_not_nans=True)
    pair = [torch.cat([mask_of(1), mask_of(area)], dim=1) for area in (10, 40)]
    metric(y_pred=pair[0], y=pair[1])
    metric(y_pred=[pair[0][0]], y=[pair[0][0]])
    score, not_nans = metric.aggregate()
    assert score.tolist() == [0.625]
    assert not_nans.tolist() == [2]


GOOD = mask_of(7)


@pytest.mark.parametrize(
    ("prediction", "truth", "message"),
    [
        (torch.full_like(GOOD, torch.nan), GOOD, "y_pred holds NaN"),
        (GOOD, torch.full_like(GOOD, torch.nan), "y holds NaN"),
        (GOOD * 0.7, GOOD, "y_pred is not binarised: values from 0 to 0.7"),
        (GOOD, -GOOD, "y is not binarised: values from -1 to -?0"),
        (GOOD, GOOD[..., 1:], "expected equal shapes"),
        (GOOD.repeat(1, 2, 1, 1), GOOD, "expected equal shapes"),
        (GOOD[0], GOOD[0], "expected \\[B, C, H, W\\]"),
    ],
)
@pytest.mark.parametrize("include_background", [True, False])
def test_errors(prediction: torch.Tensor, truth: torch.Tensor, message: str, include_background: bool) -> None:
    with pytest.raises(ValueError, match=message):
        compute_area_ratio(prediction, truth, include_background)
