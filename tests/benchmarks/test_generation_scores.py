# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.generation_scores import GenerationScores
from monai_segdiff import compute_boundary_f


def test_against_definitions() -> None:
    generator = np.random.default_rng(0)
    scores = GenerationScores(threshold=0.4)
    images = [(generator.random((3, 20, 17)), generator.random((20, 17)) < 0.4) for _ in range(4)]
    for i, (generations, truth) in enumerate(images):
        scores.add(str(i), generations, truth)
    summary = scores.summary()
    dice, boundary, spread, pairs = [], [], [], []
    for generations, truth in images:
        mask = generations.mean(0) > 0.4
        dice.append(2 * (mask & truth).sum() / (mask.sum() + truth.sum()))
        predicted, true = (torch.tensor(m)[None, None].float() for m in (mask, truth))
        boundary.append(compute_boundary_f(predicted, true).item())
        spread.append(np.mean([np.std(generations[:, i, j]) for i in range(20) for j in range(17)]))
        a, b, c = generations > 0.4
        pairs.append(np.mean([2 * (x & y).sum() / (x.sum() + y.sum()) for x, y in ((a, b), (a, c), (b, c))]))
    assert summary["dice"]["value"] == pytest.approx(np.mean(dice))
    assert summary["iou"]["value"] == pytest.approx(np.mean([d / (2 - d) for d in dice]))
    assert summary["boundary_f"]["value"] == pytest.approx(np.mean(boundary))
    assert summary["spread"] == pytest.approx(np.mean(spread))
    assert summary["pairwise_dice"] == pytest.approx(np.mean(pairs))
    low, high = summary["dice"]["interval"]
    assert min(dice) <= low < np.mean(dice) < high <= max(dice)
    assert [row["name"] for row in summary["images"]] == ["0", "1", "2", "3"]


def test_one_generation_has_no_spread() -> None:
    scores = GenerationScores()
    scores.add("a", np.full((1, 4, 4), 0.5, dtype=np.float32), np.zeros((4, 4), dtype=bool))
    summary = scores.summary()
    assert (summary["spread"], summary["pairwise_dice"]) == (None, None)
    # Exactly the threshold is background.
    assert summary["dice"] == {"value": 1.0, "interval": None}


@pytest.mark.parametrize("value", [0.1, 0.9])
def test_equal_generations(value: float) -> None:
    scores = GenerationScores()
    # 5 equal float32 numbers, whose sum is not exact in float32.
    scores.add("a", np.full((5, 4, 4), value, dtype=np.float32), np.ones((4, 4), dtype=bool))
    summary = scores.summary()
    assert summary["spread"] == pytest.approx(0, abs=1e-15)
    assert summary["pairwise_dice"] == 1.0
    assert summary["dice"]["value"] == float(value > 0.5)
