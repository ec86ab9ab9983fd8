# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_segdiff.handlers.scorers.image_scorer import binary_mask, class_map, map_of, same_shape

MASK = torch.ones(1, 4, 5)


@pytest.mark.parametrize("value", [MASK, MetaTensor(MASK), MASK.bool(), MASK.to(torch.uint8), torch.ones(1, 2, 3, 4)])
def test_masks(value: torch.Tensor) -> None:
    found = binary_mask({"pred": value}, "pred")
    assert found.dtype == bool
    assert found.shape == tuple(value.shape[1:])
    assert type(map_of({"pred": value}, "pred")) is torch.Tensor


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"label": MASK}, r"there is no 'pred', only \['label'\]"),
        ({"pred": "a.png"}, "pred is str, expected a tensor"),
        ({"pred": MASK.repeat(2, 1, 1)}, r"pred is \(2, 4, 5\), expected a tensor of shape \[1, \*spatial\]"),
        ({"pred": MASK[0]}, r"pred is \(4, 5\)"),
        ({"pred": MASK * torch.nan}, "pred holds NaN"),
        ({"pred": MASK * 255}, "pred has values from 255 to 255, expected only 0 and 1"),
        ({"pred": MASK - 2}, "pred has values from -1 to -1"),
    ],
)
def test_bad_masks(item: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        binary_mask(item, "pred")


def test_maps_of_several_channels() -> None:
    assert map_of({"probability": MASK.repeat(3, 1, 1)}, "probability", channels=3).shape == (3, 4, 5)
    with pytest.raises(ValueError, match=r"is \(1, 4, 5\), expected a tensor of shape \[3, \*spatial\]"):
        map_of({"probability": MASK}, "probability", channels=3)


@pytest.mark.parametrize("kind", [torch.float32, torch.uint8, torch.int64])
def test_label_maps(kind: torch.dtype) -> None:
    labels = torch.tensor([[[0, 1], [2, 1]]], dtype=kind)
    found = class_map({"pred": MetaTensor(labels)}, "pred", 3)
    assert found.dtype == np.int64
    assert found.tolist() == [[0, 1], [2, 1]]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (MASK * 3, "pred has values from 3 to 3, expected classes 0..2"),
        (MASK * 0.5, "pred has values from 0.5 to 0.5"),
        (-MASK.long(), "pred has values from -1 to -1"),
        (MASK * torch.inf, "pred has values from inf"),
        (MASK * torch.nan, "pred holds NaN"),
    ],
)
def test_bad_label_maps(labels: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        class_map({"pred": labels}, "pred", 3)


def test_shapes_must_agree() -> None:
    same_shape("a", np.zeros((2, 3)), "b", np.ones((2, 3)))
    with pytest.raises(ValueError, match=r"a has shape \(2, 3\) and b \(3, 2\), expected equal shapes"):
        same_shape("a", np.zeros((2, 3)), "b", np.ones((3, 2)))
