# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from skimage.measure import label
from sklearn.metrics import jaccard_score

from monai_segdiff.metrics.weighted_coverage import WeightedCoverageMetric, compute_weighted_coverage


def brute_force(prediction: np.ndarray, truth: np.ndarray) -> float:
    true_labels, predicted_labels = (np.unique(each[each > 0]) for each in (truth, prediction))
    if not len(true_labels):
        return float(not len(predicted_labels))
    total = 0.0
    for t in true_labels:
        true = truth == t
        ious = [(true & (prediction == p)).sum() / (true | (prediction == p)).sum() for p in predicted_labels]
        total += true.sum() * max(ious, default=0.0)
    return total / (truth > 0).sum()


def batch(values: np.ndarray | list) -> torch.Tensor:
    return torch.from_numpy(np.asarray(values, dtype=np.int64))[None, None]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("shape", [(13, 11), (5, 6, 4)])
def test_random_maps_against_brute_force(seed: int, shape: tuple[int, ...]) -> None:
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, 5, shape) * 3
    # mostly the truth under other labels, so that good and bad covers both occur
    prediction = np.where(generator.random(shape) < 0.7, truth // 3 + 6, generator.integers(0, 9, shape))
    found = compute_weighted_coverage(batch(prediction), batch(truth))
    assert found.shape == (1, 1)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(brute_force(prediction, truth), abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_masks_are_single_instances(seed: int) -> None:
    generator = np.random.default_rng(seed)
    prediction, truth = generator.random((9, 8)) < 0.5, generator.random((9, 8)) < 0.5
    expected = jaccard_score(truth.ravel(), prediction.ravel())
    assert compute_weighted_coverage(batch(prediction), batch(truth)).item() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("prediction", "truth", "expected"),
    [
        ([0, 0, 0, 0], [0, 0, 0, 0], 1.0),
        ([0, 0, 0, 0], [1, 0, 2, 2], 0.0),
        ([1, 0, 2, 2], [0, 0, 0, 0], 0.0),
        ([9, 0, 4, 4], [1, 0, 2, 2], 1.0),
        ([0, 0, 4, 4], [1, 0, 2, 2], 2 / 3),  # weighted by area: the missed one is a third of the foreground
        ([3, 0, 4, 4], [0, 0, 2, 2], 1.0),  # a predicted instance that covers nothing costs nothing
        ([1, 1, 1, 1], [1, 1, 2, 2], 0.5),  # one prediction may serve several
        ([1, 2, 2, 2], [1, 1, 1, 1], 3 / 4),
        ([1, 1, 0, 0], [0, 0, 1, 1], 0.0),
    ],
)
def test_by_hand(prediction: list[int], truth: list[int], expected: float) -> None:
    assert compute_weighted_coverage(batch([prediction]), batch([truth])).item() == pytest.approx(expected)


def test_labelled_objects_differ_from_their_mask() -> None:
    truth, prediction = np.zeros((2, 8, 8), dtype=int)
    truth[1:4, 1:4], truth[5:8, 5:8], prediction[1:4, 1:4] = 1, 1, 1
    assert compute_weighted_coverage(batch(prediction), batch(truth)).item() == pytest.approx(0.5)
    prediction[5:8, 4:7] = 1
    labelled = compute_weighted_coverage(batch(label(prediction)), batch(label(truth))).item()
    assert labelled == pytest.approx((1 + 6 / 12) / 2)
    assert compute_weighted_coverage(batch(prediction), batch(truth)).item() == pytest.approx(15 / 21)


def test_metric() -> None:
    metric = WeightedCoverageMetric(include_background=False, reduction="mean_batch", get_not_nans=True)
    truth = torch.tensor([[[[1, 0, 2, 2]], [[1, 0, 2, 2]]]])
    prediction = torch.tensor([[[[0, 0, 0, 0]], [[0, 0, 4, 4]]]])
    metric(y_pred=prediction, y=truth)
    metric(y_pred=[truth[0]], y=[truth[0]])
    score, not_nans = metric.aggregate()
    assert score.tolist() == pytest.approx([5 / 6])
    assert not_nans.tolist() == [2]
    everything = WeightedCoverageMetric()
    everything(y_pred=prediction, y=truth)
    assert everything.aggregate().item() == pytest.approx(1 / 3)


@pytest.mark.parametrize("shape", [(2, 3, 6, 5), (2, 2, 4, 5, 3)])
@pytest.mark.parametrize("kind", [torch.uint8, torch.int32, torch.bfloat16, torch.float64])
def test_batches_channels_and_types(shape: tuple[int, ...], kind: torch.dtype) -> None:
    generator = np.random.default_rng(0)
    prediction, truth = generator.integers(0, 5, shape), generator.integers(0, 5, shape)
    tensors = [MetaTensor(torch.from_numpy(each).to(kind)) for each in (prediction, truth)]
    expected = [
        [brute_force(p, t) for p, t in zip(*images, strict=True)] for images in zip(prediction, truth, strict=True)
    ]
    found = compute_weighted_coverage(*tensors)
    assert type(found) is torch.Tensor
    assert found.numpy() == pytest.approx(np.array(expected), abs=1e-6)
    without = compute_weighted_coverage(*tensors, include_background=False)
    assert without.numpy() == pytest.approx(np.array(expected)[:, 1:], abs=1e-6)
    single = compute_weighted_coverage(*(each[:, :1] for each in tensors), include_background=False)
    assert single.tolist() == found[:, :1].tolist()


@pytest.mark.parametrize(
    ("prediction", "message"),
    [
        (torch.full((1, 2, 1, 4), torch.nan), "prediction holds NaN"),
        (torch.full((1, 2, 1, 4), -1), "prediction holds labels from -1"),
        (torch.full((1, 2, 1, 4), 0.5), "prediction holds 0.5"),
        (torch.zeros(1, 1, 1, 4), "expected equal shapes"),
    ],
)
@pytest.mark.parametrize("include_background", [True, False])
def test_errors(prediction: torch.Tensor, message: str, include_background: bool) -> None:
    with pytest.raises(ValueError, match=message):
        compute_weighted_coverage(prediction, torch.zeros(1, 2, 1, 4), include_background)
