# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from benchmarks.image_scores import image_scores, overlap_counts, pooled_calibration, pooled_scores
from monai_segdiff import bootstrap_interval, compute_boundary_f
from monai_segdiff.metrics.calibration_score import calibration_counts, calibration_scores


def _images(*sizes: tuple[int, int]) -> list[tuple[np.ndarray, np.ndarray]]:
    generator = np.random.default_rng(0)
    return [(generator.random(size), generator.random(size) < 0.4) for size in sizes]


def test_overlap_counts() -> None:
    prediction, truth = np.array([1, 1, 1, 0, 0, 0], dtype=bool), np.array([1, 1, 0, 1, 0, 0], dtype=bool)
    assert overlap_counts(prediction, truth) == (2, 1, 1)


def test_an_image_against_definitions() -> None:
    probability, truth = _images((20, 17))[0]
    scores = image_scores(probability, truth, threshold=0.3)
    mask = probability > 0.3
    assert scores["dice"] == pytest.approx(2 * (mask & truth).sum() / (mask.sum() + truth.sum()))
    assert scores["iou"] == pytest.approx((mask & truth).sum() / (mask | truth).sum())
    predicted, true = (torch.tensor(m)[None, None].float() for m in (mask, truth))
    assert scores["boundary_f"] == pytest.approx(compute_boundary_f(predicted, true).item())
    assert scores["brier_score"] == pytest.approx(np.mean((probability - truth) ** 2))
    assert scores["pixels"] == 340
    assert scores["calibration"] == calibration_counts(probability, truth).tolist()
    assert json.loads(json.dumps(scores)) == scores


def test_exactly_the_threshold_is_background() -> None:
    assert image_scores(np.full((4, 4), 0.5), np.zeros((4, 4), dtype=bool))["dice"] == 1.0


def test_images_of_any_size_are_pooled_by_pixels() -> None:
    images = _images((20, 17), (5, 6), (9, 30))
    rows = [image_scores(*image) for image in images]
    p, y = (np.concatenate([image[i].ravel() for image in images]) for i in (0, 1))
    pooled = pooled_scores(rows)
    expected = {**calibration_scores(calibration_counts(p, y)), "brier_score": np.mean((p - y) ** 2)}
    assert pooled_calibration(rows) == pytest.approx(expected)
    assert {name: pooled[name] for name in expected} == pytest.approx(expected)
    for score in ("dice", "iou", "boundary_f"):
        values = [row[score] for row in rows]
        assert pooled[score]["value"] == pytest.approx(np.mean(values))
        assert pooled[score]["interval"] == bootstrap_interval(values)
    assert pooled["images"] == rows
