# SPDX-License-Identifier: Apache-2.0
"""Images to score, and what every scorer with pooled scores must do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.measure import label as components

from monai_segdiff.handlers.scorers import ImageScorer

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


def check_pooling(scorer: ImageScorer) -> None:
    """Check that pooled scores are those of the pixels of all images as one."""
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
