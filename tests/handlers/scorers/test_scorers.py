# SPDX-License-Identifier: Apache-2.0
"""Each scorer against the metric that it reports, and its pooled scores against the pixels of all images as one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from skimage.measure import label as components

from monai_segdiff.handlers.scorers import (
    BoundaryScorer,
    CalibrationScorer,
    ImageScorer,
    InstanceScorer,
    OverlapScorer,
    UncertaintyScorer,
)
from monai_segdiff.metrics import (
    compute_aggregated_jaccard,
    compute_area_ratio,
    compute_boundary_f,
    compute_calibration_score,
    compute_error_detection,
    compute_instance_panoptic_quality,
    compute_weighted_coverage,
    segmentation_scores,
)

NAMES = ("standard_deviation", "entropy", "mutual_information")


def items(count: int = 3, size: tuple[int, ...] = (17, 23)) -> list[dict[str, torch.Tensor]]:
    draw = np.random.default_rng(0)
    found = []
    for _ in range(count):
        probability = draw.random((1, *size)).astype(np.float32)
        truth = draw.random((1, *size)) < probability**2
        item = {"pred": probability > 0.5, "label": truth, "probability": probability}
        item |= {f"pred_{name}": draw.random((1, *size)).round(1) for name in NAMES}
        item |= {
            "pred_instances": components(item["pred"], connectivity=1),
            "instances": components(truth, connectivity=1),
        }
        found.append({key: torch.from_numpy(value) for key, value in item.items()})
    return found


def together(data: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """All images side by side; instances keep numbers of their own."""
    joined = {key: torch.cat([item[key] for item in data], dim=1) for key in data[0]}
    for key in ("pred_instances", "instances"):
        parts = [torch.where(item[key] > 0, item[key] + 1000 * i, 0) for i, item in enumerate(data)]
        joined[key] = torch.cat(parts, dim=1)
    return joined


@pytest.mark.parametrize("scorer", [OverlapScorer(), CalibrationScorer(), InstanceScorer()])
def test_pooled_scores_are_those_of_all_pixels(scorer: ImageScorer) -> None:
    data = items()
    counts = np.stack([scorer.measure(item).counts for item in data])
    pooled = scorer.pool(*counts.sum(0))
    expected = scorer.measure(together(data)).scores
    assert list(pooled) == list(scorer.headings) == list(expected)
    assert {name: float(value) for name, value in pooled.items()} == pytest.approx(expected, abs=1e-6)
    # As the bootstrap calls it: many sums at once.
    many = scorer.pool(*np.stack([counts.sum(0), counts[0]], axis=1))
    first = scorer.measure(data[0]).scores
    for name, values in many.items():
        assert values.tolist() == pytest.approx([expected[name], first[name]], abs=1e-6)


def batched(item: dict[str, torch.Tensor], *keys: str) -> list[torch.Tensor]:
    return [item[key][None] for key in keys]


def test_overlap_and_boundary() -> None:
    item = items(1)[0]
    pred, label = item["pred"], item["label"]
    counts = [int(x.sum()) for x in (pred & label, pred & ~label, ~pred & label)]
    found = OverlapScorer().measure(item)
    assert found.counts.tolist() == counts
    assert found.scores == segmentation_scores(*counts)
    assert found.scores["area_ratio"] == pytest.approx(compute_area_ratio(*batched(item, "pred", "label")).item())
    boundary = BoundaryScorer(max_distance=2)
    expected = compute_boundary_f(*batched(item, "pred", "label"), max_distance=2).item()
    assert boundary.measure(item).scores["boundary_f"] == pytest.approx(expected)
    pooled = boundary.pool(*sum(boundary.measure(one).counts for one in items(2)))["boundary_f"]
    assert 0 < pooled < 1


def test_calibration(tmp_path: Path) -> None:
    item = items(1)[0]
    scorer = CalibrationScorer()
    found = scorer.measure(item)
    expected = compute_calibration_score(*batched(item, "probability", "label")).item()
    assert found.scores["paper_calibration_score"] == pytest.approx(expected, abs=1e-6)
    scorer.draw(tmp_path, found.counts[None])
    assert [path.name for path in tmp_path.iterdir()] == ["reliability.png"]


def test_instances() -> None:
    item = items(1)[0]
    found = InstanceScorer().measure(item).scores
    pair = batched(item, "pred_instances", "instances")
    assert found["aji"] == pytest.approx(compute_aggregated_jaccard(*pair).item())
    assert found["weighted_coverage"] == pytest.approx(compute_weighted_coverage(*pair).item())
    for name in ("pq", "dq", "sq"):
        quality = compute_instance_panoptic_quality(*pair, metric_name=name).item()
        assert found[name] == pytest.approx(quality, abs=1e-6)


def test_uncertainty(tmp_path: Path) -> None:
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


def test_a_perfect_mask_defines_no_detection() -> None:
    item = items(1)[0]
    scores = UncertaintyScorer().measure(item | {"label": item["pred"]}).scores
    assert [scores[f"auroc_{name}"] for name in NAMES] == [None] * 3
    assert [scores[f"aurc_{name}"] for name in NAMES] == [0.0] * 3


@pytest.mark.parametrize(
    ("scorer", "changes", "message"),
    [
        (OverlapScorer(), {"label": torch.ones(1, 2, 2)}, "pred has shape .* and label .* expected equal shapes"),
        (OverlapScorer(), {"pred": torch.full((1, 17, 23), 0.5)}, "pred has values from 0.5"),
        (BoundaryScorer(), {"label": None}, "label is NoneType"),
        (CalibrationScorer(), {"probability": torch.full((1, 17, 23), 1.5)}, "from 1.5 to 1.5, expected 0 to 1"),
        (CalibrationScorer(), {"probability": torch.ones(1, 2, 2)}, "probability has shape"),
        (InstanceScorer(), {"instances": torch.full((1, 17, 23), 0.5)}, "expected"),
        (InstanceScorer(), {"instances": torch.ones(1, 2, 2)}, "pred_instances has shape"),
        (UncertaintyScorer(), {"pred_entropy": torch.ones(1, 2, 2)}, "pred_entropy has shape"),
        (UncertaintyScorer(), {"pred_entropy": torch.full((1, 17, 23), torch.nan)}, "pred_entropy holds NaN"),
    ],
)
def test_bad_items(scorer: ImageScorer, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scorer.measure(items(1)[0] | changes)


def test_missing_maps_are_named() -> None:
    with pytest.raises(ValueError, match="there is no 'pred_entropy', only"):
        UncertaintyScorer(["entropy"]).measure({"pred": torch.ones(1, 2, 2), "label": torch.ones(1, 2, 2)})
