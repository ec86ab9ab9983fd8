# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor

from monai_segdiff.engines.checked_labels import checked_labels
from monai_segdiff.exceptions import AnnotationError

LABELS = torch.tensor([[[[0, 1], [2, 1]]], [[[2, 2], [0, 0]]]])
META = {"filename_or_obj": ["/data/a.nii.gz", "/data/b.nii.gz"]}


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("meta", [False, True])
def test_any_type_becomes_a_plain_int64(dtype: torch.dtype, meta: bool) -> None:
    labels = LABELS.to(dtype)
    found = checked_labels(MetaTensor(labels, meta=META) if meta else labels, 3)
    assert type(found) is torch.Tensor
    assert found.dtype == torch.int64
    assert torch.equal(found, LABELS)


def test_of_two_classes() -> None:
    mask = torch.tensor([[[True, False]]])
    assert checked_labels(mask, 2).tolist() == [[[1, 0]]]
    volume = torch.ones(1, 1, 2, 2, 2)
    assert torch.equal(checked_labels(volume, 2), volume.long())


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        (LABELS + 1, "found 1 channel.s. with values .1, 2, 3."),
        (LABELS - 1, "-1"),
        (LABELS * 127.5, "127.5, 255.0"),
        (LABELS + 0.25, "0.25"),
        (torch.where(LABELS == 2, torch.nan, LABELS), "nan"),
        (torch.where(LABELS == 2, torch.inf, LABELS), "inf"),
        (LABELS.double() + 1e-9, "1e-09"),
        (LABELS.repeat(1, 2, 1, 1), "found 2 channel.s."),
        (LABELS[:, :0], "found 0 channel.s."),
        (torch.arange(100).reshape(1, 1, 10, 10), "values .3, 4, 5, 6, 7, 8, 9, 10, 11, 12."),
    ],
)
def test_refused(labels: torch.Tensor, found: str) -> None:
    with pytest.raises(AnnotationError, match=rf"one channel with values 0\.\.2; .*{found}.* in the batch"):
        checked_labels(labels, 3)
    with pytest.raises(AnnotationError, match=found) as caught:
        checked_labels(MetaTensor(labels, meta=META), 3)
    assert all(name in str(caught.value) for name in META["filename_or_obj"])


def test_the_wrong_value_is_shown_among_many_right_ones() -> None:
    labels = torch.cat([torch.arange(19), torch.tensor([255])]).reshape(1, 1, 4, 5)
    with pytest.raises(
        AnnotationError, match=r"0\.\.18; found 1 channel.s. with values .0, 1, 2, 3, 4, 5, 6, 7, 8, 255."
    ):
        checked_labels(labels, 19)
