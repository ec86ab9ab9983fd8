# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from torch.nn import functional

from monai_segdiff.transforms import ResizeToMatch, ResizeToMatchD, ResizeToMatchd, ResizeToMatchDict

MAP = torch.rand(2, 10, 12, generator=torch.Generator().manual_seed(0))


def test_a_whole_ratio_averages_blocks() -> None:
    found = ResizeToMatch()(MAP, torch.zeros(3, 5, 4))
    torch.testing.assert_close(found, MAP.reshape(2, 5, 2, 4, 3).mean(dim=(2, 4)))


@pytest.mark.parametrize(
    ("size", "mode"),
    [((5, 5), "area"), ((10, 7), "area"), ((20, 24), "bilinear"), ((5, 13), "bilinear"), ((11, 12), "bilinear")],
)
def test_area_only_where_nothing_grows(size: tuple[int, int], mode: str) -> None:
    align = {} if mode == "area" else {"align_corners": False}
    expected = functional.interpolate(MAP[None], size, mode=mode, **align)[0]
    torch.testing.assert_close(ResizeToMatch()(MAP, torch.zeros(1, *size)), expected)


def test_volumes() -> None:
    volume = torch.rand(1, 4, 6, 8)
    found = ResizeToMatch()(volume, torch.zeros(1, 2, 3, 4))
    torch.testing.assert_close(found, functional.avg_pool3d(volume, 2))
    assert ResizeToMatch()(volume, torch.zeros(1, 5, 6, 8)).shape == (1, 5, 6, 8)


def test_same_size_same_bits() -> None:
    assert torch.equal(ResizeToMatch()(MAP, torch.zeros(1, 10, 12)), MAP)


@pytest.mark.parametrize("size", [(3, 7), (33, 37)])
def test_values_stay_in_their_range(size: tuple[int, int]) -> None:
    ones = torch.full((1, 10, 12), 1 / 3)
    assert torch.equal(ResizeToMatch()(ones, torch.zeros(1, *size)), torch.full((1, *size), 1 / 3))


def test_meta_data_follow() -> None:
    found = ResizeToMatch()(MetaTensor(MAP), torch.zeros(1, 5, 6))
    assert isinstance(found, MetaTensor)
    assert found.pixdim.tolist()[:2] == [2, 2]


def test_dictionary() -> None:
    resize = ResizeToMatchd(keys=["pred", "spread"], key_dst="label", allow_missing_keys=True)
    found = resize({"pred": MAP, "label": np.zeros((1, 5, 4)), "other": 1})
    assert torch.equal(torch.as_tensor(found["pred"]), ResizeToMatch()(MAP, torch.zeros(1, 5, 4)))
    assert found["other"] == 1
    assert set(found) == {"pred", "label", "other"}


def test_missing_keys() -> None:
    with pytest.raises(KeyError):
        ResizeToMatchd(keys="pred", key_dst="label")({"label": MAP})
    with pytest.raises(KeyError):
        ResizeToMatchd(keys="pred", key_dst="label")({"pred": MAP})


def test_different_numbers_of_axes() -> None:
    with pytest.raises(ValueError, match=r"shape \(2, 10, 12\), expected as many axes as the image of \(1, 4, 4, 4\)"):
        ResizeToMatch()(MAP, torch.zeros(1, 4, 4, 4))


def test_names() -> None:
    assert ResizeToMatchD is ResizeToMatchd
    assert ResizeToMatchDict is ResizeToMatchd
