# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from monai_segdiff.handlers.scorers import InstanceScorer
from monai_segdiff.metrics import (
    compute_aggregated_jaccard,
    compute_instance_panoptic_quality,
    compute_weighted_coverage,
)

sys.path.insert(0, str(Path(__file__).parent))
from scorer_items import batched, check_pooling, items  # noqa: E402


def test_pooled_scores() -> None:
    check_pooling(InstanceScorer())


def test_scores() -> None:
    item = items(1)[0]
    found = InstanceScorer().measure(item).scores
    pair = batched(item, "pred_instances", "instances")
    assert found["aji"] == pytest.approx(compute_aggregated_jaccard(*pair).item())
    assert found["weighted_coverage"] == pytest.approx(compute_weighted_coverage(*pair).item())
    for name in ("pq", "dq", "sq"):
        quality = compute_instance_panoptic_quality(*pair, metric_name=name).item()
        assert found[name] == pytest.approx(quality, abs=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"instances": torch.full((1, 17, 23), 0.5)}, "expected"),
        ({"instances": torch.ones(1, 2, 2)}, "pred_instances has shape"),
    ],
)
def test_bad_items(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        InstanceScorer().measure(items(1)[0] | changes)
