# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, log_loss

from monai_segdiff.metrics import negative_log_likelihood
from monai_segdiff.metrics.class_calibration import class_calibration_counts, class_calibration_scores


def sample(num_classes: int, size: tuple[int, ...], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    weights = draw.exponential(size=(num_classes, *size))
    return (weights / weights.sum(0)).astype(np.float32), draw.integers(0, num_classes, size)


@pytest.mark.parametrize("num_classes", [2, 3, 7])
@pytest.mark.parametrize("size", [(500,), (20, 30), (6, 7, 8)])
def test_against_scikit_learn(num_classes: int, size: tuple[int, ...]) -> None:
    probability, truth = sample(num_classes, size)
    found = class_calibration_scores(class_calibration_counts(probability, truth))
    p, y = probability.reshape(num_classes, -1).T.astype(np.float64), truth.ravel()
    p /= p.sum(1, keepdims=True)
    classes = list(range(num_classes))
    clipped = p[np.arange(len(y)), y].clip(1e-4, 1 - 1e-4)
    assert found["negative_log_likelihood"] == pytest.approx(-np.log(clipped).mean(), abs=1e-6)
    assert found["negative_log_likelihood"] == pytest.approx(log_loss(y, p, labels=classes), abs=0.01)
    expected = brier_score_loss(y, p, labels=classes, scale_by_half=False)
    assert found["brier_score"] == pytest.approx(expected, abs=1e-6)


def test_expected_calibration_error_of_the_most_probable_class() -> None:
    # Ten pixels of confidence 0.7, seven of them right, and ten of confidence 0.9, six right: error (0 + 0.3) / 2.
    probability = np.repeat([[0.2, 0.7, 0.1], [0.05, 0.05, 0.9]], 10, axis=0).T
    truth = np.array([1] * 7 + [0, 2, 2] + [2] * 6 + [1] * 4)
    counts = class_calibration_counts(probability, truth)
    np.testing.assert_allclose(counts[:-2].reshape(10, 3)[[7, 9]], [[10, 7, 7], [10, 9, 6]])
    assert counts[:-2].reshape(10, 3)[:, 0].sum() == 20
    assert class_calibration_scores(counts)["expected_calibration_error"] == pytest.approx(0.15)


def test_two_classes_are_a_binary_mask() -> None:
    probability, truth = sample(2, (400,))
    probability[:, :4] = [[0, 0, 1, 1], [1, 1, 0, 0]]  # sure ones, right and wrong
    found = class_calibration_scores(class_calibration_counts(probability, truth))
    expected = negative_log_likelihood(probability[1], truth)
    assert found["negative_log_likelihood"] == pytest.approx(expected, rel=1e-6)
    assert found["brier_score"] == pytest.approx(2 * np.square(probability[1] - truth).mean(), rel=1e-5)


def test_perfect_and_worst() -> None:
    sure = np.eye(3)
    perfect = class_calibration_scores(class_calibration_counts(sure, np.arange(3)))
    assert perfect == pytest.approx(
        {"expected_calibration_error": 0, "negative_log_likelihood": 1e-4, "brier_score": 0}, abs=1e-8
    )
    worst = class_calibration_scores(class_calibration_counts(sure, np.array([1, 2, 0])))
    expected = {"expected_calibration_error": 1, "negative_log_likelihood": -np.log(1e-4), "brier_score": 2}
    assert worst == pytest.approx(expected)


def test_added_counts_are_those_of_all_pixels() -> None:
    parts = [sample(3, (50,), seed) for seed in range(2)]
    added = sum(class_calibration_counts(*part, num_bins=4) for part in parts)
    together = class_calibration_counts(
        *(np.concatenate(part, axis=-1) for part in zip(*parts, strict=True)), num_bins=4
    )
    assert added.shape == (14,)
    np.testing.assert_allclose(added, together)


def test_sums_that_are_1_but_for_rounding() -> None:
    probability = np.array([[1.0000002], [0.0], [0.0]], dtype=np.float32)
    assert class_calibration_scores(class_calibration_counts(probability, np.array([0])))["brier_score"] < 1e-6


GOOD, TRUTH = sample(3, (4, 5))


@pytest.mark.parametrize(
    ("probability", "truth", "num_bins", "message"),
    [
        (GOOD, TRUTH[1:], 10, r"probability has shape \(3, 4, 5\) and truth \(3, 5\)"),
        (GOOD[0], TRUTH, 10, "expected"),
        (GOOD[:1], TRUTH, 10, "of at least 2 classes"),
        (GOOD * 0.99, TRUTH, 10, "sums from 0.99 to 0.99, expected values of at least 0 with a sum of 1"),
        (GOOD * np.nan, TRUTH, 10, "values from nan"),
        (np.stack([GOOD[0] - 2, GOOD[1] + 2, GOOD[2]]), TRUTH, 10, "expected values of at least 0"),
        (GOOD, TRUTH + 1, 10, "truth has values from 1 to 3, expected 0..2"),
        (GOOD, TRUTH + 0.5, 10, "truth has values"),
        (GOOD, TRUTH, 0, "num_bins is 0"),
    ],
)
def test_errors(probability: np.ndarray, truth: np.ndarray, num_bins: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        class_calibration_counts(probability, truth, num_bins)


@pytest.mark.parametrize("counts", [np.zeros((3, 5)), np.zeros(7), np.zeros(2)])
def test_counts_of_another_shape(counts: np.ndarray) -> None:
    with pytest.raises(ValueError, match="counts have shape"):
        class_calibration_scores(counts)


def test_no_pixel() -> None:
    with pytest.raises(ValueError, match="hold no pixel"):
        class_calibration_scores(np.zeros(5))
