# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import jaccard_score

from monai_segdiff.metrics.aggregated_jaccard import (
    AggregatedJaccardMetric,
    aggregated_jaccard_counts,
    aggregated_jaccard_of_counts,
    compute_aggregated_jaccard,
)


def brute_force(prediction: np.ndarray, truth: np.ndarray) -> tuple[int, int]:
    """Instance by instance with full-size masks, as Kumar et al. write the algorithm."""
    predicted = {p: prediction == p for p in np.unique(prediction) if p}
    numerator, denominator, taken = 0, 0, set()
    for t in np.unique(truth):
        if not t:
            continue
        true = truth == t
        best, best_iou = 0, 0.0
        for p, mask in predicted.items():
            iou = (mask & true).sum() / (mask | true).sum()
            if iou > best_iou:
                best, best_iou = p, iou
        if not best:
            denominator += true.sum()
            continue
        numerator += (predicted[best] & true).sum()
        denominator += (predicted[best] | true).sum()
        taken.add(best)
    denominator += sum(mask.sum() for p, mask in predicted.items() if p not in taken)
    return int(numerator), int(denominator)


def batch(values: np.ndarray | list) -> torch.Tensor:
    return torch.from_numpy(np.asarray(values, dtype=np.int64))[None, None]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("shape", [(13, 11), (5, 6, 4)])
def test_random_maps_against_brute_force(seed: int, shape: tuple[int, ...]) -> None:
    generator = np.random.default_rng(seed)
    # Few pixels to an instance: ties, missed, shared and never taken instances all occur.
    truth = generator.choice([0, 0, 0, *range(2, 40, 2)], size=shape)
    prediction = np.where(generator.random(shape) < 0.4, (truth + 5) % 40, generator.integers(0, 60, shape))
    expected = brute_force(prediction, truth)
    counts = aggregated_jaccard_counts(prediction, truth)
    assert counts.dtype == np.int64
    assert counts.tolist() == list(expected)
    found = compute_aggregated_jaccard(batch(prediction), batch(truth))
    assert found.shape == (1, 1)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(expected[0] / expected[1])


def test_masks_are_single_instances() -> None:
    generator = np.random.default_rng(0)
    prediction, truth = generator.random((9, 8)) < 0.5, generator.random((9, 8)) < 0.5
    expected = jaccard_score(truth.ravel(), prediction.ravel())
    assert compute_aggregated_jaccard(batch(prediction), batch(truth)).item() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("prediction", "truth", "counts"),
    [
        ([0, 0, 0, 0], [0, 0, 0, 0], (0, 0)),
        ([0, 0, 0, 0], [1, 0, 2, 2], (0, 3)),
        ([1, 0, 2, 2], [0, 0, 0, 0], (0, 3)),
        ([9, 0, 4, 4], [1, 0, 2, 2], (3, 3)),
        ([0, 0, 4, 4], [1, 0, 2, 2], (2, 3)),  # missed
        ([3, 0, 4, 4], [0, 0, 2, 2], (2, 3)),  # never taken
        ([1, 1, 1, 1], [1, 1, 2, 2], (4, 8)),  # taken twice
        ([1, 1, 2, 2], [1, 1, 1, 1], (2, 6)),  # equal IoUs, the second one is never taken
        ([2, 2, 1, 1], [1, 1, 1, 1], (2, 6)),
        # Equal IoUs 1/3 of label 2 (one pixel) and label 5 (two pixels): label 2 is taken.
        ([2, 5, 5, 0, 5, 5, 5], [1, 1, 1, 0, 0, 0, 0], (1, 3 + 5)),
        # The same with the labels exchanged: the larger instance is taken.
        ([5, 2, 2, 0, 2, 2, 2], [1, 1, 1, 0, 0, 0, 0], (2, 6 + 1)),
    ],
)
def test_by_hand(prediction: list[int], truth: list[int], counts: tuple[int, int]) -> None:
    assert aggregated_jaccard_counts(np.array(prediction), np.array(truth)).tolist() == list(counts)
    expected = counts[0] / counts[1] if counts[1] else 1.0
    assert compute_aggregated_jaccard(batch([prediction]), batch([truth])).item() == pytest.approx(expected)


def test_added_counts_score_like_one_large_image() -> None:
    generator = np.random.default_rng(0)
    pairs = [[generator.integers(0, 9, (7, 8)) for _ in range(2)] for _ in range(3)]
    added = sum(aggregated_jaccard_counts(*pair) for pair in pairs)
    # side by side, with labels that differ from image to image
    shifted = [[each + 10 * i * (each > 0) for each in pair] for i, pair in enumerate(pairs)]
    together = [np.concatenate(maps) for maps in zip(*shifted, strict=True)]
    expected = compute_aggregated_jaccard(batch(together[0]), batch(together[1])).item()
    assert float(aggregated_jaccard_of_counts(*added)) == pytest.approx(expected)


def test_scores_of_arrays_of_counts() -> None:
    scores = aggregated_jaccard_of_counts(np.array([[3, 0], [0, 5]]), np.array([[4, 0], [2, 5]]))
    assert scores.tolist() == [[0.75, 1.0], [0.0, 1.0]]


def test_metric() -> None:
    metric = AggregatedJaccardMetric(get_not_nans=True)
    truth, prediction = torch.tensor([[[[1, 0, 2, 2]]]]), torch.tensor([[[[0, 0, 4, 4]]]])
    metric(y_pred=prediction, y=truth)
    metric(y_pred=[truth[0]], y=[truth[0]])
    score, not_nans = metric.aggregate()
    assert score.item() == pytest.approx(5 / 6)
    assert not_nans.item() == 2
    both = AggregatedJaccardMetric(reduction="mean_batch")
    both(y_pred=torch.cat([prediction, truth], dim=1), y=torch.cat([truth, truth], dim=1))
    assert both.aggregate().tolist() == pytest.approx([2 / 3, 1])


@pytest.mark.parametrize(
    ("prediction", "message"),
    [
        (torch.full((1, 1, 1, 4), torch.nan), "prediction holds NaN"),
        (torch.full((1, 1, 1, 4), -1), "prediction holds labels from -1"),
        (torch.full((1, 1, 1, 4), 0.5), "prediction holds 0.5"),
        (torch.zeros(1, 1, 1, 3), "expected equal shapes"),
    ],
)
def test_errors(prediction: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compute_aggregated_jaccard(prediction, torch.zeros(1, 1, 1, 4))
    with pytest.raises(ValueError, match=message):
        aggregated_jaccard_counts(prediction.numpy(), np.zeros((1, 1, 1, 4)))
