# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from benchmarks.generation_scores import generation_scores, pooled_generation_scores
from benchmarks.image_scores import image_scores, pooled_scores


def test_against_definitions() -> None:
    generator = np.random.default_rng(0)
    images = [(generator.random((3, 20, 17)), generator.random((20, 17)) < 0.4) for _ in range(4)]
    rows = [generation_scores(generations, truth, threshold=0.4) for generations, truth in images]
    for (generations, truth), row in zip(images, rows, strict=True):
        of_mean = image_scores(generations.mean(0), truth, 0.4)
        assert {name: row[name] for name in of_mean} == of_mean
        spread = np.mean([np.std(generations[:, i, j]) for i in range(20) for j in range(17)])
        assert row["spread"] == pytest.approx(spread)
        a, b, c = generations > 0.4
        pairs = [2 * (x & y).sum() / (x.sum() + y.sum()) for x, y in ((a, b), (a, c), (b, c))]
        assert row["pairwise_dice"] == pytest.approx(np.mean(pairs))
    summary = pooled_generation_scores(rows)
    assert summary["spread"] == pytest.approx(np.mean([row["spread"] for row in rows]))
    assert summary["pairwise_dice"] == pytest.approx(np.mean([row["pairwise_dice"] for row in rows]))
    of_means = pooled_scores(rows)
    assert {name: summary[name] for name in of_means} == of_means


def test_one_generation_has_no_spread() -> None:
    row = generation_scores(np.full((1, 4, 4), 0.5, dtype=np.float32), np.zeros((4, 4), dtype=bool))
    summary = pooled_generation_scores([row, row])
    for scores in (row, summary):
        assert (scores["spread"], scores["pairwise_dice"]) == (None, None)
    # Exactly the threshold is background.
    assert row["dice"] == 1.0


@pytest.mark.parametrize("value", [0.1, 0.9])
def test_equal_generations(value: float) -> None:
    # 5 equal float32 numbers, whose sum is not exact in float32.
    row = generation_scores(np.full((5, 4, 4), value, dtype=np.float32), np.ones((4, 4), dtype=bool))
    assert row["spread"] == pytest.approx(0, abs=1e-15)
    assert row["pairwise_dice"] == 1.0
    assert row["dice"] == float(value > 0.5)
    exact = generation_scores(
        np.full((5, 4, 4), value, dtype=np.float32), np.ones((4, 4), bool), float(np.float32(value))
    )
    assert exact["dice"] == 0.0
