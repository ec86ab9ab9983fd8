# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import brier_score_loss, log_loss

from monai_segdiff.handlers.scorers import ClassCalibrationScorer


def items(count: int = 3, size: tuple[int, ...] = (7, 9)) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    probabilities = torch.randn(count, 3, *size, generator=generator).softmax(1)
    labels = torch.randint(0, 3, (count, 1, *size), generator=generator)
    return [{"probability": p, "label": y} for p, y in zip(probabilities, labels, strict=True)]


@pytest.mark.parametrize("size", [(7, 9), (4, 5, 6)])
def test_scores(size: tuple[int, ...]) -> None:
    item = items(1, size)[0]
    found = ClassCalibrationScorer(3).measure(item).scores
    p, y = item["probability"].flatten(1).T.double().numpy(), item["label"].flatten().numpy()
    p /= p.sum(1, keepdims=True)
    assert found["negative_log_likelihood"] == pytest.approx(log_loss(y, p, labels=[0, 1, 2]), abs=1e-6)
    assert found["brier_score"] == pytest.approx(
        brier_score_loss(y, p, labels=[0, 1, 2], scale_by_half=False), abs=1e-6
    )
    assert 0 < found["expected_calibration_error"] < 1


def test_pooled_scores_are_those_of_all_pixels() -> None:
    scorer, data = ClassCalibrationScorer(3), items()
    counts = np.stack([scorer.measure(item).counts for item in data])
    together = {key: torch.cat([item[key] for item in data], dim=1) for key in data[0]}
    expected = [scorer.measure(together).scores, scorer.measure(data[0]).scores]
    many = scorer.pool(*np.stack([counts.sum(0), counts[0]], axis=1))
    assert list(many) == list(scorer.headings)
    for name, values in many.items():
        assert values.tolist() == pytest.approx([scores[name] for scores in expected])


def test_picture(tmp_path: Path) -> None:
    scorer = ClassCalibrationScorer(3, num_bins=5)
    counts = np.stack([scorer.measure(item).counts for item in items()])
    assert counts.shape == (3, 17)
    scorer.draw(tmp_path, counts)
    assert [path.name for path in tmp_path.iterdir()] == ["reliability.png"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"probability": torch.ones(1, 7, 9)}, r"probability is \(1, 7, 9\), expected a tensor of shape \[3, "),
        ({"probability": torch.ones(3, 7, 9)}, "sums from 3 to 3"),
        ({"label": torch.full((1, 7, 9), 3)}, "label has values from 3 to 3, expected classes 0..2"),
        ({"label": torch.ones(1, 2, 2)}, "expected equal shapes"),
    ],
)
def test_bad_items(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClassCalibrationScorer(3).measure(items(1)[0] | changes)
