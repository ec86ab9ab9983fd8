# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from monai_segdiff.handlers.scorers import BoundaryScorer
from monai_segdiff.metrics import compute_boundary_f

sys.path.insert(0, str(Path(__file__).parent))
from scorer_items import batched, items  # noqa: E402


def test_score_and_pooled_score() -> None:
    item = items(1)[0]
    boundary = BoundaryScorer(max_distance=2)
    expected = compute_boundary_f(*batched(item, "pred", "label"), max_distance=2).item()
    assert boundary.measure(item).scores["boundary_f"] == pytest.approx(expected)
    pooled = boundary.pool(*sum(boundary.measure(one).counts for one in items(2)))["boundary_f"]
    assert 0 < pooled < 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": None}, "label is NoneType"),
        ({"label": torch.ones(1, 2, 2)}, "expected equal shapes"),
    ],
)
def test_bad_items(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BoundaryScorer().measure(items(1)[0] | changes)
