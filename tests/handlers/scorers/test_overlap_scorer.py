# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from monai_segdiff.handlers.scorers import OverlapScorer
from monai_segdiff.metrics import compute_area_ratio, segmentation_scores

sys.path.insert(0, str(Path(__file__).parent))
from scorer_items import batched, check_pooling, items  # noqa: E402


def test_pooled_scores() -> None:
    check_pooling(OverlapScorer())


def test_scores_and_counts() -> None:
    item = items(1)[0]
    pred, label = item["pred"], item["label"]
    counts = [int(x.sum()) for x in (pred & label, pred & ~label, ~pred & label)]
    found = OverlapScorer().measure(item)
    assert found.counts.tolist() == counts
    assert found.scores == segmentation_scores(*counts)
    assert found.scores["area_ratio"] == pytest.approx(compute_area_ratio(*batched(item, "pred", "label")).item())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": torch.ones(1, 2, 2)}, "pred has shape .* and label .* expected equal shapes"),
        ({"pred": torch.full((1, 17, 23), 0.5)}, "pred has values from 0.5"),
    ],
)
def test_bad_items(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OverlapScorer().measure(items(1)[0] | changes)
