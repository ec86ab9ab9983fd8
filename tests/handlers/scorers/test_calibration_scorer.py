# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from monai_segdiff.handlers.scorers import CalibrationScorer
from monai_segdiff.metrics import compute_calibration_score

sys.path.insert(0, str(Path(__file__).parent))
from scorer_items import batched, check_pooling, items  # noqa: E402


def test_pooled_scores() -> None:
    check_pooling(CalibrationScorer())


def test_score_and_picture(tmp_path: Path) -> None:
    item = items(1)[0]
    scorer = CalibrationScorer()
    found = scorer.measure(item)
    expected = compute_calibration_score(*batched(item, "probability", "label")).item()
    assert found.scores["paper_calibration_score"] == pytest.approx(expected, abs=1e-6)
    scorer.draw(tmp_path, found.counts[None])
    assert [path.name for path in tmp_path.iterdir()] == ["reliability.png"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"probability": torch.full((1, 17, 23), 1.5)}, "from 1.5 to 1.5, expected 0 to 1"),
        ({"probability": torch.ones(1, 2, 2)}, "probability has shape"),
    ],
)
def test_bad_items(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CalibrationScorer().measure(items(1)[0] | changes)
