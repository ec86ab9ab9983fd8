# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor

from monai_segdiff import CheckSameSized
from monai_segdiff.exceptions import AnnotationError


def item(*shape: int, name: str) -> MetaTensor:
    return MetaTensor(torch.zeros(shape), meta={"filename_or_obj": name})


def test_equal_sizes_pass_unchanged() -> None:
    data = {"image": item(3, 8, 6, name="a.tif"), "label": item(1, 8, 6, name="a.png")}
    result = CheckSameSized(keys="label")(data)
    assert result["label"] is data["label"]
    assert CheckSameSized(keys=["label", "absent"], allow_missing_keys=True)(data).keys() == data.keys()


@pytest.mark.parametrize("size", [(6, 8), (16, 12), (8, 7)])
def test_other_sizes_are_refused(size: tuple[int, int]) -> None:
    data = {"image": item(3, 8, 6, name="a.tif"), "label": item(1, *size, name="a.png")}
    message = rf"a\.png: has size \[{size[0]}, {size[1]}\], expected \[8, 6\] as its image a\.tif"
    with pytest.raises(AnnotationError, match=message):
        CheckSameSized(keys="label")(data)
