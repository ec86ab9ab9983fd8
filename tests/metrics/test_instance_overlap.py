# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
from skimage.metrics import contingency_table
from sklearn.metrics import jaccard_score

from monai_segdiff.metrics.instance_overlap import InstanceOverlap, instance_overlap


def random_map(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """About half background, up to six instances with labels that are not consecutive."""
    labels = np.array([0, 0, 0, 0, 0, 0, 1, 2, 7, 40, 41, 1000])
    return generator.choice(labels, size=shape)


def brute_force(prediction: np.ndarray, truth: np.ndarray) -> InstanceOverlap:
    labels = [[label for label in np.unique(each) if label] for each in (prediction, truth)]
    pairs = [
        (j, i, np.count_nonzero((prediction == p) & (truth == t)))
        for i, t in enumerate(labels[1])
        for j, p in enumerate(labels[0])
        if ((prediction == p) & (truth == t)).any()
    ]
    return InstanceOverlap(
        np.array([np.count_nonzero(prediction == label) for label in labels[0]]),
        np.array([np.count_nonzero(truth == label) for label in labels[1]]),
        *np.array(pairs, dtype=np.int64).reshape(-1, 3).T,
    )


def assert_equal(found: InstanceOverlap, expected: InstanceOverlap) -> None:
    for name in ("predicted_areas", "true_areas", "predicted", "true", "intersections"):
        assert getattr(found, name).dtype == np.int64
        assert getattr(found, name).tolist() == getattr(expected, name).tolist(), name


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("shape", [(40,), (7, 9), (4, 5, 3), (3, 2, 4, 3)])
def test_random_maps_against_brute_force(seed: int, shape: tuple[int, ...]) -> None:
    generator = np.random.default_rng(seed)
    prediction, truth = random_map(generator, shape), random_map(generator, shape)
    assert_equal(instance_overlap(prediction, truth), brute_force(prediction, truth))


def test_scikit_image_and_scikit_learn() -> None:
    generator = np.random.default_rng(1)
    prediction, truth = random_map(generator, (30, 20)), random_map(generator, (30, 20))
    overlap = instance_overlap(prediction, truth)
    predicted_labels, true_labels = np.unique(prediction)[1:], np.unique(truth)[1:]
    table = contingency_table(truth, prediction).toarray()
    for p, t, pixels, union, iou in zip(
        overlap.predicted, overlap.true, overlap.intersections, overlap.unions, overlap.ious, strict=True
    ):
        one_prediction, one_truth = prediction == predicted_labels[p], truth == true_labels[t]
        assert pixels == table[true_labels[t], predicted_labels[p]]
        assert union == np.count_nonzero(one_prediction | one_truth)
        assert iou == jaccard_score(one_truth.ravel(), one_prediction.ravel())
    assert overlap.intersections.sum() == table[1:, 1:].sum()


@pytest.mark.parametrize(
    ("prediction", "truth"),
    [
        ([0, 0, 0], [0, 0, 0]),
        ([0, 0, 0], [3, 0, 3]),
        ([3, 0, 3], [0, 0, 0]),
        ([5, 5, 5], [5, 5, 5]),  # no background at all
        ([5, 5, 0], [0, 0, 5]),  # side by side
        ([], []),
    ],
)
def test_edge_cases(prediction: list[int], truth: list[int]) -> None:
    maps = np.array(prediction, dtype=np.int32), np.array(truth, dtype=np.int32)
    assert_equal(instance_overlap(*maps), brute_force(*maps))


def test_best_pairs() -> None:
    # True 1 meets 3 and 4 with equal IoU 2/4: the smaller label wins. True 2 meets 4 (2/5) and 9 (1/2), true 3 nothing.
    prediction = np.array([3, 3, 4, 4, 4, 4, 9, 0, 0])
    truth = np.array([1, 1, 1, 1, 2, 2, 0, 3, 3])
    overlap = instance_overlap(prediction, truth)
    best = overlap.best_pairs()
    assert overlap.true[best].tolist() == [0, 1]
    assert overlap.predicted[best].tolist() == [0, 1]
    tie = instance_overlap(np.array([8, 8, 6, 6]), np.array([1, 1, 1, 1]))
    assert tie.predicted[tie.best_pairs()].tolist() == [0]
    larger_label = instance_overlap(np.array([6, 8, 8, 8]), np.array([1, 1, 1, 1]))
    assert larger_label.predicted[larger_label.best_pairs()].tolist() == [1]
    assert instance_overlap(np.zeros(3), np.ones(3)).best_pairs().tolist() == []


@pytest.mark.parametrize("kind", [np.bool_, np.uint8, np.uint16, np.int64, np.uint64, np.float32])
def test_types(kind: type) -> None:
    prediction, truth = np.array([0, 1, 1, 0]), np.array([1, 1, 1, 0])
    assert_equal(instance_overlap(prediction.astype(kind), truth.astype(kind)), brute_force(prediction, truth))


def test_largest_labels_do_not_overflow() -> None:
    top = 2**31 - 1
    prediction, truth = np.array([top, top, top - 1, 0]), np.array([top, top - 1, top, 0])
    assert_equal(instance_overlap(prediction, truth), brute_force(prediction, truth))


GOOD = np.array([[0, 1], [2, 2]])


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.array([[0, np.nan], [1, 1]]), "holds NaN"),
        (np.array([[0, 1.5], [1, 1]]), "holds 1.5, expected whole numbers"),
        (np.array([[0, -1], [1, 1]]), "holds labels from -1 to 1"),
        (np.array([[0, 2**31], [1, 1]]), "holds labels from 0 to 2147483648, expected labels from 0 to 2147483647"),
        (np.array([[0, np.inf], [1, 1]]), "holds labels from 0.0 to inf"),
    ],
)
def test_bad_labels(bad: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=f"prediction {message}"):
        instance_overlap(bad, GOOD)
    with pytest.raises(ValueError, match=f"truth {message}"):
        instance_overlap(GOOD, bad)


def test_shape_mismatch() -> None:
    with pytest.raises(ValueError, match=r"prediction has shape \(2, 2\) and truth \(1, 2\)"):
        instance_overlap(GOOD, GOOD[:1])
