# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from monai.metrics import compute_roc_auc
from sklearn.metrics import roc_auc_score

from monai_segdiff.metrics.error_detection import ErrorDetectionMetric, compute_error_detection


def row(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32).reshape(1, 1, 1, -1)


@pytest.mark.parametrize("levels", [2, 7, 10**6])
@pytest.mark.parametrize("shape", [(2, 3, 9, 11), (1, 2, 4, 5, 6)])
def test_against_references(levels: int, shape: tuple[int, ...]) -> None:
    generator = np.random.default_rng(levels)
    # Few levels make many ties; uncertainties may be negative.
    uncertainty = torch.from_numpy(generator.integers(0, levels, shape) / levels - 0.3)
    wrong = torch.from_numpy(generator.random(shape) < 0.2)
    found = compute_error_detection(uncertainty, wrong)
    assert (found.shape, found.dtype) == (shape[:2], torch.float32)
    for image, channel in np.ndindex(shape[:2]):
        u, w = uncertainty[image, channel].flatten(), wrong[image, channel].flatten()
        assert found[image, channel].item() == pytest.approx(roc_auc_score(w, u), abs=1e-6)
        assert found[image, channel].item() == pytest.approx(compute_roc_auc(u, w.long()), abs=1e-6)


@pytest.mark.parametrize(
    ("uncertainty", "wrong", "expected"),
    [
        ((0.1, 0.2, 0.9), (0, 0, 1), 1.0),
        ((0.9, 0.8, 0.1), (0, 0, 1), 0.0),
        ((0.5, 0.5, 0.5), (0, 0, 1), 0.5),
        ((0.0, 0.0, -0.0), (0, 1, 1), 0.5),
        ((0.1, 0.5, 0.5, 0.9), (0, 1, 0, 0), 0.5),
        ((0.1, 0.2), (0, 0), math.nan),  # nothing wrong: an empty prediction of an empty truth, for one
        ((0.1, 0.2), (1, 1), math.nan),
        ((0.1,), (1,), math.nan),
    ],
)
def test_closed_forms(uncertainty: tuple, wrong: tuple, expected: float) -> None:
    found = compute_error_detection(row(*uncertainty), row(*wrong)).item()
    assert found == pytest.approx(expected, nan_ok=True)


def test_large_counts_do_not_overflow() -> None:
    # W (N - W) exceeds 2^31.
    wrong = torch.zeros(1, 1, 400, 400)
    wrong[..., :200, :] = 1
    assert compute_error_detection(wrong, wrong).item() == 1


def test_undefined_images_are_left_out() -> None:
    metric = ErrorDetectionMetric(get_not_nans=True)
    metric(row(0.1, 0.2, 0.9), row(0, 0, 1))
    metric(row(0.1, 0.2, 0.9), row(0, 1, 0))
    metric(row(0.1, 0.2, 0.9), row(0, 0, 0))
    area, counted = metric.aggregate()
    assert (area.item(), counted.item()) == (0.75, 2)
    each, _ = metric.aggregate(reduction="none")
    assert each.flatten().tolist() == pytest.approx([1, 0.5, math.nan], nan_ok=True)
    # Reading does not change what is held.
    assert metric.aggregate()[0].item() == 0.75


@pytest.mark.parametrize("reduction", ["mean", "sum", "mean_batch", "mean_channel", "none"])
def test_nothing_defined_is_not_a_score(reduction: str) -> None:
    metric = ErrorDetectionMetric(reduction=reduction)
    metric(row(0.1, 0.2), row(0, 0))
    area = metric.aggregate()
    assert isinstance(area, torch.Tensor)
    assert area.isnan().all()


def test_a_class_without_errors_counts_for_itself() -> None:
    metric = ErrorDetectionMetric(reduction="mean_batch")
    u, w = row(0.1, 0.9), row(0, 1)
    metric(torch.cat([u, u], dim=1), torch.cat([w, 0 * w], dim=1))
    assert metric.aggregate().tolist() == pytest.approx([1, math.nan], nan_ok=True)
    assert metric.aggregate(reduction="mean").item() == 1
    metric.reset()
    with pytest.raises(ValueError, match="call the metric first"):
        metric.aggregate()


@pytest.mark.parametrize(
    ("uncertainty", "wrong", "message"),
    [
        (row(0.1, math.nan), row(0, 1), "y_pred holds NaN or infinity"),
        (row(0.1, math.inf), row(0, 1), "y_pred holds NaN or infinity"),
        (row(0.1, 0.2), row(0, 0.5), "y has values from 0 to 0.5, expected 1 where wrong"),
        (row(0.1, 0.2), row(0, math.nan), "y has values from nan to nan"),
        (row(0.1, 0.2), row(0, 1, 1), "expected equal shapes"),
        (row(0.1, 0.2)[0], row(0, 1)[0], "expected \\[B, C, H, W\\]"),
    ],
)
def test_errors(uncertainty: torch.Tensor, wrong: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compute_error_detection(uncertainty, wrong)
