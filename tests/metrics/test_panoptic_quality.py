# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.metrics import PanopticQualityMetric
from sklearn.metrics import f1_score

from monai_segdiff.metrics.panoptic_quality import (
    InstancePanopticQualityMetric,
    compute_instance_panoptic_quality,
    panoptic_counts,
    panoptic_quality_of_counts,
)


def brute_force(prediction: np.ndarray, truth: np.ndarray, match_iou: float) -> list[float]:
    predicted = [prediction == p for p in np.unique(prediction) if p]
    true = [truth == t for t in np.unique(truth) if t]
    ious = np.array([[(t & p).sum() / (t | p).sum() for p in predicted] for t in true])
    matched = ious[ious > match_iou]
    return [len(matched), len(predicted) - len(matched), len(true) - len(matched), float(matched.sum())]


def random_pair(seed: int, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Maps with labels that are not consecutive; the prediction keeps some instances nearly whole."""
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, 8, shape) * 3
    kept = generator.random(25)[truth] < 0.6
    noise = generator.random(shape) < 0.25
    return np.where(kept & ~noise, (truth + 30) * (truth > 0), generator.integers(0, 6, shape)), truth


def batch(values: np.ndarray | list) -> torch.Tensor:
    return torch.from_numpy(np.asarray(values, dtype=np.int64))[None, None]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("match_iou", [0.5, 0.65])
@pytest.mark.parametrize("shape", [(13, 17), (6, 7, 5)])
def test_random_maps_against_brute_force_and_monai(seed: int, match_iou: float, shape: tuple[int, ...]) -> None:
    prediction, truth = random_pair(seed, shape)
    counts = panoptic_counts(prediction, truth, match_iou)
    assert counts.dtype == np.float64
    assert counts.tolist() == pytest.approx(brute_force(prediction, truth, match_iou))
    metric = PanopticQualityMetric(1, ("pq", "rq", "sq"), match_iou_threshold=match_iou)
    with_class = [torch.cat([batch(labels), batch(labels > 0)], dim=1) for labels in (prediction, truth)]
    assert counts.tolist() == pytest.approx(metric(*with_class).flatten().tolist(), rel=1e-6)
    for name, expected in zip(("pq", "dq", "sq"), metric.aggregate(), strict=True):
        found = compute_instance_panoptic_quality(batch(prediction), batch(truth), name, match_iou)
        assert found.shape == (1, 1)
        assert found.dtype == torch.float32
        assert found.item() == pytest.approx(expected.item(), abs=1e-5)  # their smoothing


def test_random_maps_match_something() -> None:
    matches = [panoptic_counts(*random_pair(seed, (13, 17)))[0] for seed in range(4)]
    assert min(matches) >= 1


@pytest.mark.parametrize(
    ("prediction", "truth", "pq", "dq", "sq"),
    [
        ([0, 0, 0, 0], [0, 0, 0, 0], 1, 1, 1),
        ([0, 0, 0, 0], [1, 0, 2, 2], 0, 0, 0),
        ([1, 0, 2, 2], [0, 0, 0, 0], 0, 0, 0),
        ([9, 0, 4, 4], [1, 0, 2, 2], 1, 1, 1),
        ([7, 7, 7, 7], [7, 7, 7, 7], 1, 1, 1),  # no background
        ([0, 0, 4, 4], [1, 0, 2, 2], 2 / 3, 2 / 3, 1),  # missed
        ([3, 3, 4, 4], [0, 0, 2, 2], 2 / 3, 2 / 3, 1),  # false alarm
        ([5, 5, 0, 0], [1, 1, 1, 1], 0, 0, 0),  # an IoU of exactly 0.5 is no match
        ([5, 5, 5, 0], [1, 1, 1, 1], 3 / 4, 1, 3 / 4),
        ([5, 5, 5, 9], [1, 1, 1, 1], 1 / 2, 2 / 3, 3 / 4),  # split: the rest is a false alarm
        ([1, 1, 0, 0], [0, 0, 1, 1], 0, 0, 0),
    ],
)
def test_by_hand(prediction: list[int], truth: list[int], pq: float, dq: float, sq: float) -> None:
    for name, expected in (("pq", pq), ("dq", dq), ("sq", sq)):
        found = compute_instance_panoptic_quality(batch([prediction]), batch([truth]), name).item()
        assert found == pytest.approx(expected), name


def test_match_is_strictly_above_the_threshold() -> None:
    prediction, truth = np.array([5] * 7 + [0] * 3), np.ones(10, dtype=int)
    assert panoptic_counts(prediction, truth, 0.7).tolist() == [0, 1, 1, 0]
    assert panoptic_counts(prediction, truth, 0.69).tolist() == [1, 0, 0, 0.7]


def test_detection_quality_is_the_f1_score() -> None:
    # one label for each true and predicted instance: 5 found, 2 missed, 3 false alarms
    expected = f1_score([1] * 7 + [0] * 3, [1] * 5 + [0] * 2 + [1] * 3)
    pq, dq, sq = panoptic_quality_of_counts(5, 3, 2, 4.0)
    assert float(dq) == pytest.approx(expected)
    assert float(sq) == pytest.approx(0.8)
    assert float(pq) == pytest.approx(0.8 * expected)


def test_added_counts_and_arrays_of_counts() -> None:
    pairs = [random_pair(seed, (13, 17)) for seed in range(3)]
    counts = np.array([panoptic_counts(*pair) for pair in pairs])
    # side by side, with labels that differ from image to image
    shifted = [[each + 100 * i * (each > 0) for each in pair] for i, pair in enumerate(pairs)]
    together = [np.concatenate(maps) for maps in zip(*shifted, strict=True)]
    expected = panoptic_quality_of_counts(*panoptic_counts(*together))
    assert np.array(panoptic_quality_of_counts(*counts.sum(axis=0))) == pytest.approx(np.array(expected))
    columns = [np.append(column, 0) for column in counts.T]
    each = [[float(score) for score in panoptic_quality_of_counts(*row)] for row in counts] + [[1, 1, 1]]
    assert np.array(panoptic_quality_of_counts(*columns)).T.tolist() == each


def test_metric() -> None:
    truth, prediction = torch.tensor([[[[1, 0, 2, 2, 2, 2]]]]), torch.tensor([[[[0, 0, 4, 4, 4, 0]]]])
    for name, expected in (("pq", 0.5), ("dq", 2 / 3), ("sq", 0.75)):
        metric = InstancePanopticQualityMetric(name, get_not_nans=True)
        metric(y_pred=prediction, y=truth)
        metric(y_pred=[truth[0]], y=[truth[0]])
        score, not_nans = metric.aggregate()
        assert score.item() == pytest.approx((1 + expected) / 2)
        assert not_nans.item() == 2
    strict = InstancePanopticQualityMetric(match_iou=0.75, reduction="mean_batch")
    strict(y_pred=torch.cat([prediction, truth], dim=1), y=torch.cat([truth, truth], dim=1))
    assert strict.aggregate().tolist() == [0, 1]


ZEROS = torch.zeros(1, 1, 1, 4)


@pytest.mark.parametrize(
    ("prediction", "message"),
    [
        (torch.full((1, 1, 1, 4), torch.nan), "prediction holds NaN"),
        (torch.full((1, 1, 1, 4), -1), "prediction holds labels from -1"),
        (torch.full((1, 1, 1, 4), 0.5), "prediction holds 0.5"),
        (torch.zeros(1, 1, 1, 3), "expected equal shapes"),
    ],
)
def test_bad_maps(prediction: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compute_instance_panoptic_quality(prediction, ZEROS)


@pytest.mark.parametrize("match_iou", [0.49, 1, -1, float("nan")])
def test_bad_threshold(match_iou: float) -> None:
    for call in (
        lambda: panoptic_counts(np.zeros(3), np.zeros(3), match_iou),
        lambda: compute_instance_panoptic_quality(torch.zeros(0, 1, 4, 4), torch.zeros(0, 1, 4, 4), "pq", match_iou),
        lambda: InstancePanopticQualityMetric(match_iou=match_iou),
    ):
        with pytest.raises(ValueError, match="match_iou is"):
            call()


def test_bad_name() -> None:
    with pytest.raises(ValueError, match="metric_name is 'rq', expected one of"):
        compute_instance_panoptic_quality(ZEROS, ZEROS, "rq")
    with pytest.raises(ValueError, match="metric_name is 'mean', expected one of"):
        InstancePanopticQualityMetric("mean")
