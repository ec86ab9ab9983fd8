# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from monai.metrics import CalibrationErrorMetric
from sklearn.calibration import calibration_curve

from monai_segdiff.metrics.calibration_score import (
    CalibrationScoreMetric,
    calibration_counts,
    calibration_scores,
    compute_calibration_score,
)


def by_brute_force(pixels: list[tuple[float, bool]], num_bins: int) -> tuple[float, float, int]:
    bins: dict[int, list[tuple[float, bool]]] = {}
    for p, y in pixels:
        bins.setdefault(min(int(p * num_bins), num_bins - 1), []).append((p, y))
    gaps = {b: abs(sum(p for p, _ in held) - sum(y for _, y in held)) / len(held) for b, held in bins.items()}
    error = sum(len(bins[b]) / len(pixels) * gap for b, gap in gaps.items())
    return error, sum(gap**2 for gap in gaps.values()) / num_bins, num_bins - len(bins)


def random_image(seed: int, shape: tuple[int, ...] = (20, 30), highest: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    return generator.uniform(0, highest, shape), generator.random(shape) < 0.3


@pytest.mark.parametrize(("highest", "num_bins", "empty"), [(1.0, 10, 0), (0.35, 10, 6), (1.0, 3, 0), (1.0, 1, 0)])
def test_against_brute_force(highest: float, num_bins: int, empty: int) -> None:
    images = [random_image(seed, shape, highest) for seed, shape in enumerate([(7, 5), (3, 40), (2, 3, 20)])]
    for p, _ in images:
        p.flat[:4] = (0.0, highest, 0.25, highest)
    # Added over images.
    scores = calibration_scores(sum(calibration_counts(p, y, num_bins) for p, y in images))
    pixels = [pair for p, y in images for pair in zip(p.ravel().tolist(), y.ravel().tolist(), strict=True)]
    assert tuple(scores.values()) == pytest.approx(by_brute_force(pixels, num_bins), rel=1e-12)
    assert scores["empty_bins"] == empty


@pytest.mark.parametrize("highest", [1.0, 0.35])
def test_bins_are_those_of_scikit_learn(highest: float) -> None:
    p, y = random_image(0, highest=highest)
    share, mean = calibration_curve(y.ravel(), p.ravel(), n_bins=10)
    counts = calibration_counts(p, y)
    held = counts[counts[:, 0] > 0]
    np.testing.assert_allclose(held[:, 1] / held[:, 0], mean)
    np.testing.assert_allclose(held[:, 2] / held[:, 0], share)
    assert counts[:, 0].sum() == p.size


@pytest.mark.parametrize("highest", [1.0, 0.35])
def test_expected_calibration_error_is_that_of_monai(highest: float) -> None:
    p, y = random_image(1, (1, 1, 20, 30), highest)
    reference = CalibrationErrorMetric(num_bins=10)
    reference(torch.from_numpy(p), torch.from_numpy(y).float())
    found = calibration_scores(calibration_counts(p, y))["expected_calibration_error"]
    assert found == pytest.approx(reference.aggregate().item(), abs=1e-6)


@pytest.mark.parametrize(
    ("probability", "truth", "error", "paper"),
    [
        ([0.0, 1.0], [0, 1], 0.0, 0.0),
        ([1.0, 0.0], [0, 1], 1.0, 0.2),
        ([0.5, 0.5], [0, 1], 0.0, 0.0),
        ([0.25, 0.25, 0.25, 0.75], [0, 0, 0, 1], 0.25, 0.0125),
        ([0, 0], [0, 0], 0.0, 0.0),  # empty prediction, empty truth
        ([0, 0], [1, 1], 1.0, 0.1),
        ([1, 1], [0, 0], 1.0, 0.1),
        ([True, False], [True, False], 0.0, 0.0),
    ],
)
def test_closed_forms(probability: list, truth: list, error: float, paper: float) -> None:
    scores = calibration_scores(calibration_counts(np.array(probability), np.array(truth)))
    assert list(scores.values())[:2] == pytest.approx([error, paper], abs=1e-15)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_an_edge_belongs_to_the_bin_it_begins(kind: type) -> None:
    edges = (np.arange(11) / 10).astype(kind)
    assert calibration_counts(edges, np.zeros(11))[:, 0].tolist() == [1.0] * 9 + [2.0]
    below = np.nextafter(edges[1:], kind(0))
    assert calibration_counts(below, np.zeros(10))[:, 0].tolist() == [1.0] * 10


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    images = [random_image(seed, (2, 12, 15), highest) for seed, highest in ((0, 1.0), (1, 0.6), (2, 0.9))]
    return tuple(torch.from_numpy(np.stack(one)).float() for one in zip(*images, strict=True))  # type: ignore[return-value]


def score_of(p: torch.Tensor, y: torch.Tensor) -> float:
    pixels = list(zip(p.flatten().tolist(), y.flatten().bool().tolist(), strict=True))
    return by_brute_force(pixels, 10)[1]


def test_scores_of_images_and_classes() -> None:
    p, y = batch()
    found = compute_calibration_score(p, y)
    assert (found.shape, found.dtype) == ((3, 2), torch.float32)
    expected = [[score_of(p[i, c], y[i, c]) for c in range(2)] for i in range(3)]
    torch.testing.assert_close(found, torch.tensor(expected))
    torch.testing.assert_close(compute_calibration_score(p, y, include_background=False), found[:, 1:])
    assert compute_calibration_score(p, y, num_bins=1)[0, 0] == pytest.approx((p[0, 0] - y[0, 0]).mean() ** 2)


@pytest.mark.parametrize("background", [True, False])
def test_metric_pools_or_averages(background: bool) -> None:
    p, y = batch()
    pooled, single = (CalibrationScoreMetric(include_background=background, pooled=one) for one in (True, False))
    for metric in (pooled, single):
        counts = metric(p[:2], y[:2])
        metric([p[2]], [y[2]])
        assert counts.shape == (2, 2 if background else 1, 10, 3)
        assert metric.get_buffer().shape == (3, 2 if background else 1, 10, 3)
    classes = [0, 1] if background else [1]
    expected = [score_of(p[:, c], y[:, c]) for c in classes]
    assert pooled.aggregate(reduction="mean_batch").tolist() == pytest.approx(expected, rel=1e-5)
    assert pooled.aggregate().item() == pytest.approx(np.mean(expected), rel=1e-5)
    images = compute_calibration_score(p, y)[:, classes]
    torch.testing.assert_close(single.aggregate("none"), images)
    assert single.aggregate().item() == pytest.approx(images.mean().item(), rel=1e-6)
    assert single.aggregate().item() != pytest.approx(pooled.aggregate().item(), rel=0.01)
    single.reset()
    with pytest.raises(ValueError, match="call the metric first"):
        single.aggregate()


def test_metric_takes_its_arguments() -> None:
    p, y = batch()
    metric = CalibrationScoreMetric(num_bins=4, reduction="sum")
    metric(p, y)
    expected = [calibration_scores(calibration_counts(p[:, c].numpy(), y[:, c].numpy(), 4)) for c in (0, 1)]
    assert metric.aggregate().item() == pytest.approx(sum(one["paper_calibration_score"] for one in expected))


@pytest.mark.parametrize(
    ("probability", "truth", "num_bins", "message"),
    [
        ([0.1], [1, 0], 10, "expected equal shapes"),
        ([0.1, 1.1], [1, 0], 10, "probability has values from 0.1 to 1.1, expected 0 to 1"),
        ([-0.1, 1.0], [1, 0], 10, "probability has values from -0.1 to 1, expected 0 to 1"),
        ([2, 1], [1, 0], 10, "probability has values from 1 to 2, expected 0 to 1"),
        ([0.1, np.nan], [1, 0], 10, "probability has values from nan to nan"),
        ([0.1, 0.2], [1, 2], 10, "truth has values from 1 to 2, expected only 0 and 1"),
        ([0.1, 0.2], [1, np.nan], 10, "truth has values from nan to nan"),
        ([0.1, 0.2], [1, 0], 0, "num_bins is 0"),
        ([0.1, 0.2], [1, 0], 2.5, "num_bins is 2.5"),
        ([0.1, 0.2], [1, 0], True, "num_bins is True"),
    ],
)
def test_bad_input(probability: list, truth: list, num_bins: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        calibration_counts(np.array(probability), np.array(truth), num_bins)


@pytest.mark.parametrize(
    ("counts", "message"),
    [(np.zeros((10, 3)), "hold no pixel"), (np.ones((10, 2)), "expected"), (np.ones((2, 10, 3)), "expected")],
)
def test_bad_counts(counts: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        calibration_scores(counts)
