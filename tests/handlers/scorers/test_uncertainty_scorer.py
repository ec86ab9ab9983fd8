# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from monai_segdiff.handlers.scorers import UncertaintyScorer
from monai_segdiff.metrics import compute_error_detection

sys.path.insert(0, str(Path(__file__).parent))
from scorer_items import NAMES, items  # noqa: E402


def test_scores_and_picture(tmp_path: Path) -> None:
    data = items(2)
    scorer = UncertaintyScorer()
    found = [scorer.measure(item) for item in data]
    for item, (scores, counts) in zip(data, found, strict=True):
        wrong = (item["pred"] != item["label"])[None]
        assert list(scores) == list(scorer.headings)
        assert counts.shape == (3 * 100,)
        for i, name in enumerate(NAMES):
            expected = compute_error_detection(item[f"pred_{name}"][None], wrong).item()
            assert scores[f"auroc_{name}"] == pytest.approx(expected)
            assert scores[f"aurc_{name}"] == pytest.approx(counts[100 * i : 100 * (i + 1)].mean())
            assert counts[100 * (i + 1) - 1] == pytest.approx(wrong.double().mean().item()), (
                "all pixels: the error rate"
            )
    scorer.draw(tmp_path, np.stack([counts for _, counts in found]))
    assert [path.name for path in tmp_path.iterdir()] == ["risk_coverage.png"]
    assert not scorer.pool(*found[0].counts)


def test_a_pixel_of_another_class_is_wrong() -> None:
    truth = torch.tensor([[[0, 1, 2, 2]]])
    item = {
        "pred": torch.tensor([[[0, 2, 2, 1]]]),
        "label": truth,
        "pred_entropy": torch.tensor([[[0.1, 0.9, 0.2, 0.8]]]),
    }
    assert UncertaintyScorer(["entropy"], num_classes=3).measure(item).scores["auroc_entropy"] == 1
    with pytest.raises(ValueError, match="pred has values from 0 to 2, expected classes 0..1"):
        UncertaintyScorer(["entropy"]).measure(item)


def test_a_perfect_mask_defines_no_detection() -> None:
    item = items(1)[0]
    scores = UncertaintyScorer().measure(item | {"label": item["pred"]}).scores
    assert [scores[f"auroc_{name}"] for name in NAMES] == [None] * 3
    assert [scores[f"aurc_{name}"] for name in NAMES] == [0.0] * 3


def test_missing_maps_are_named() -> None:
    with pytest.raises(ValueError, match="there is no 'pred_entropy', only"):
        UncertaintyScorer(["entropy"]).measure({"pred": torch.ones(1, 2, 2), "label": torch.ones(1, 2, 2)})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pred_entropy": torch.ones(1, 2, 2)}, "pred_entropy has shape"),
        ({"pred_entropy": torch.full((1, 17, 23), torch.nan)}, "pred_entropy holds NaN"),
    ],
)
def test_bad_items(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UncertaintyScorer().measure(items(1)[0] | changes)
