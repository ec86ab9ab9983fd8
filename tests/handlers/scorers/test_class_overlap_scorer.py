# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from monai.metrics import DiceMetric, MeanIoU
from monai.networks.utils import one_hot

from monai_segdiff.handlers.scorers import ClassOverlapScorer

NAMES = ["head", "body", "tail"]


def items(size: tuple[int, ...], count: int = 3) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [
        {key: torch.randint(0, 4, (1, *size), generator=generator) for key in ("pred", "label")} for _ in range(count)
    ]


@pytest.mark.parametrize("size", [(9, 11), (5, 6, 7)])
def test_against_monai(size: tuple[int, ...]) -> None:
    scorer = ClassOverlapScorer(NAMES)
    item = items(size, 1)[0]
    item["label"][item["label"] == 3] = 0  # falsely found
    item["pred"][item["pred"] == 2] = 0  # missed
    found = scorer.measure(item).scores
    assert list(found) == list(scorer.headings)
    pair = [one_hot(item[key][None], 4) for key in ("pred", "label")]
    for score, metric in (("dice", DiceMetric), ("iou", MeanIoU)):
        # MONAI calls a class that the truth lacks undefined by default; here it is, as it is false, 0.
        expected = metric(include_background=False, reduction="none", ignore_empty=False)(*pair)[0].tolist()
        assert [found[f"{score}_{name}"] for name in NAMES] == pytest.approx(expected)
        assert expected[0] > 0
        assert expected[1:] == [0, 0]
        assert found[score] == pytest.approx(np.mean(expected))


EMPTY, ONE, TWO = [0, 0, 0, 0], [0, 1, 1, 0], [0, 2, 2, 2]


@pytest.mark.parametrize(
    ("pred", "label", "head", "body", "mean"),
    [
        (EMPTY, EMPTY, None, None, None),
        (ONE, ONE, 1, None, 1),
        (EMPTY, ONE, 0, None, 0),
        (ONE, EMPTY, 0, None, 0),
        (TWO, ONE, 0, 0, 0),
        ([0, 1, 1, 2], [0, 1, 1, 0], 1, 0, 0.5),
        ([0, 1, 1, 0], [0, 1, 1, 2], 1, 0, 0.5),
    ],
)
def test_empty_classes(pred: list, label: list, head: float | None, body: float | None, mean: float | None) -> None:
    item = {"pred": torch.tensor([[pred]]), "label": torch.tensor([[label]])}
    found = ClassOverlapScorer(["head", "body"]).measure(item).scores
    for score in ("dice", "iou"):
        assert (found[f"{score}_head"], found[f"{score}_body"], found[score]) == (head, body, mean)


def test_pooled_scores_are_those_of_all_pixels() -> None:
    scorer = ClassOverlapScorer(NAMES)
    data = items((9, 11))
    counts = np.stack([scorer.measure(item).counts for item in data])
    assert counts.shape == (3, 9)
    together = {key: torch.cat([item[key] for item in data], dim=1) for key in data[0]}
    expected = [scorer.measure(together).scores, scorer.measure(data[0]).scores]
    # As the bootstrap calls it: many sums at once.
    many = scorer.pool(*np.stack([counts.sum(0), counts[0]], axis=1))
    assert list(many) == list(scorer.headings)
    for name, values in many.items():
        assert values.tolist() == pytest.approx([scores[name] for scores in expected])
    assert {k: float(v) for k, v in scorer.pool(*counts.sum(0)).items()} == pytest.approx(expected[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pred": torch.full((1, 9, 11), 4)}, "pred has values from 4 to 4, expected classes 0..3"),
        ({"label": torch.ones(1, 2, 2)}, r"pred has shape \(9, 11\) and label \(2, 2\)"),
        ({"label": None}, "label is NoneType"),
    ],
)
def test_bad_items(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClassOverlapScorer(NAMES).measure(items((9, 11), 1)[0] | changes)
