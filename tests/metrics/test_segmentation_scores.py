# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.metrics import DiceMetric, MeanIoU

from monai_segdiff.metrics.segmentation_scores import bootstrap_interval, segmentation_scores


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ((0, 0, 0), (1, 1, 1, 1, 1)),
        ((0, 7, 0), (0, 0, 0, 0, 0)),
        ((0, 0, 7), (0, 0, 0, 0, 0)),
        ((0, 3, 4), (0, 0, 0, 0, 3 / 4)),
        ((5, 0, 0), (1, 1, 1, 1, 1)),
        ((6, 2, 4), (12 / 18, 6 / 12, 6 / 8, 6 / 10, 8 / 10)),
        ((1, 0, 3), (2 / 5, 1 / 4, 1, 1 / 4, 1 / 4)),
        ((2**40, 1, 1), (1, 1, 1, 1, 1)),
    ],
)
def test_scores(counts: tuple[int, int, int], expected: tuple[float, ...]) -> None:
    found = segmentation_scores(*counts)
    assert list(found) == ["dice", "iou", "precision", "recall", "area_ratio"]
    assert tuple(found.values()) == pytest.approx(expected)
    assert all(type(value) is float for value in found.values())


@pytest.mark.parametrize("counts", [(-1, 0, 0), (0, 0.5, 0), (0, 0, float("nan"))])
def test_bad_counts(counts: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="expected a whole number"):
        segmentation_scores(*counts)  # type: ignore[arg-type]


@pytest.mark.parametrize("density", [0.0, 0.3])
def test_against_monai(density: float) -> None:
    generator = torch.Generator().manual_seed(0)
    prediction, truth = ((torch.rand(1, 1, 9, 9, generator=generator) < density).float() for _ in range(2))
    tp, fp, fn = (int(x.sum()) for x in (prediction * truth, prediction * (1 - truth), (1 - prediction) * truth))
    found = segmentation_scores(tp, fp, fn)
    assert found["dice"] == pytest.approx(DiceMetric(ignore_empty=False)(prediction, truth).item())
    assert found["iou"] == pytest.approx(MeanIoU(ignore_empty=False)(prediction, truth).item())


@pytest.mark.parametrize(
    ("values", "statistic", "expected"),
    [
        ([], "mean", None),
        ([0.4], "mean", None),
        ([[1, 2, 3]], "dice", None),
        ([], "iou", None),
        ([0.1] * 3, "mean", (0.1, 0.1)),
        ([[3, 1, 1]] * 5, "dice", (0.75, 0.75)),
        ([[0, 0, 0]] * 5, "iou", (1.0, 1.0)),
        ([[3, 0, 0], [5, 0, 0]], "recall", (1.0, 1.0)),  # images differ, the score does not
    ],
)
def test_interval_edge_cases(values: list, statistic: str, expected: tuple[float, float] | None) -> None:
    assert bootstrap_interval(values, statistic) == (expected and pytest.approx(expected, abs=0))


def test_interval_of_the_mean() -> None:
    values = np.random.default_rng(1).normal(0.7, 0.1, 200)
    low, high = bootstrap_interval(values) or (0, 0)
    error = values.std() / np.sqrt(len(values))
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.3 * error)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.3 * error)
    assert bootstrap_interval(values) == (low, high)
    assert bootstrap_interval(values, seed=1) != (low, high)
    narrow = bootstrap_interval(values, confidence_level=0.5) or (0, 0)
    assert low < narrow[0] < narrow[1] < high


def test_interval_of_pooled_scores_resamples_whole_images() -> None:
    generator = np.random.default_rng(2)
    counts = generator.integers(0, 100, (12, 3))
    low, high = bootstrap_interval(counts, "iou") or (0, 0)
    draws = counts[generator.integers(0, 12, (4000, 12))].sum(1)
    expected = np.quantile(draws[:, 0] / draws.sum(1), [0.025, 0.975])
    assert (low, high) == pytest.approx(tuple(expected), abs=0.01)
    assert low < counts[:, 0].sum() / counts.sum() < high


def test_interval_with_empty_images() -> None:
    # Resamples that hold only empty images are possible; they count as 1, without a warning.
    low, high = bootstrap_interval([[0, 0, 0], [2, 2, 2]], "dice") or (0, 0)
    assert (low, high) == pytest.approx((0.5, 1.0))


def shares(found: np.ndarray, total: np.ndarray) -> np.ndarray:
    """A score that resamples without anything to find do not define."""
    return np.divide(found, total, out=np.full(np.shape(total), np.nan), where=total > 0)


def test_resamples_without_a_value_are_left_out() -> None:
    # Two of four images define nothing: 1 in 16 resamples holds them only.
    counts = np.array([[0, 0], [0, 0], [3, 4], [1, 4]])
    draws = counts[np.array(list(np.ndindex(4, 4, 4, 4)))].sum(1)
    defined = draws[draws[:, 1] > 0]
    expected = np.quantile(defined[:, 0] / defined[:, 1], [0.1, 0.9])
    assert bootstrap_interval(counts, shares, confidence_level=0.8) == pytest.approx(tuple(expected))
    assert bootstrap_interval(np.array([[0, 0]] * 3), shares) is None


@pytest.mark.parametrize(
    ("values", "statistic", "message"),
    [
        ([0.1, 0.2], "median", "statistic is 'median'"),
        ([[0.1, 0.2]], "mean", "expected \\[N\\]"),
        ([1, 2, 3], "dice", "expected \\[N, 3\\]"),
        ([0.1, float("nan")], "mean", "NaN"),
    ],
)
def test_interval_errors(values: list, statistic: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bootstrap_interval(values, statistic)
