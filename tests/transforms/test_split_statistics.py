# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_segdiff.transforms import SplitStatistics, SplitStatisticsD, SplitStatisticsd, SplitStatisticsDict

KEYS = ("pred", "pred_standard_deviation", "pred_entropy", "pred_mutual_information")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(5, 7), (2, 3, 4)])
@pytest.mark.parametrize("kind", [torch.tensor, np.asarray])
def test_order_of_channels(channels: int, size: tuple[int, ...], kind: type) -> None:
    parts = np.random.default_rng(0).random((4, channels, *size), dtype=np.float32)
    found = SplitStatistics()(kind(parts.reshape(4 * channels, *size)))
    assert len(found) == 4
    for part, expected in zip(found, parts, strict=True):
        assert type(part) is type(kind(0.0 * parts))
        np.testing.assert_array_equal(np.asarray(part), expected)


@pytest.mark.parametrize("classes", [1, 2, 3])
def test_classes_that_exclude_each_other_have_one_entropy(classes: int) -> None:
    values = torch.arange(2.0 * classes + 2)[:, None, None].expand(-1, 2, 3)
    found = SplitStatistics(categorical=True)(values)
    assert [part[:, 0, 0].tolist() for part in found] == [
        list(range(classes)),
        list(range(classes, 2 * classes)),
        [2 * classes],
        [2 * classes + 1],
    ]
    data = SplitStatisticsd("pred", categorical=True)({"pred": values})
    assert [data[key].shape[0] for key in KEYS] == [classes, classes, 1, 1]


@pytest.mark.parametrize("channels", [0, 2, 5])
def test_errors_of_classes(channels: int) -> None:
    with pytest.raises(ValueError, match=rf"shape \({channels}, 2\), expected an even number of at least 4 channels"):
        SplitStatistics(categorical=True)(torch.zeros(channels, 2))


def test_dictionary_form_keeps_meta_data_and_other_items() -> None:
    values = torch.arange(8.0)[:, None, None].expand(8, 2, 3)
    affine = torch.diag(torch.tensor([2.0, 3.0, 1.0, 1.0], dtype=torch.float64))
    data = {"pred": MetaTensor(values, affine=affine, meta={"filename_or_obj": "a.png"}), "image": 1}
    result = SplitStatisticsd(keys="pred")(data)
    assert set(result) == {"image", *KEYS}
    assert result["image"] == 1
    for number, key in enumerate(KEYS):
        assert isinstance(result[key], MetaTensor)
        assert result[key].shape == (2, 2, 3)
        assert result[key][:, 0, 0].tolist() == [2 * number, 2 * number + 1]
        assert result[key].meta["filename_or_obj"] == "a.png"
        assert torch.equal(result[key].affine, affine)
    assert data["pred"].shape == (8, 2, 3)


def test_several_and_missing_keys() -> None:
    data = {"a": torch.zeros(4, 1), "b": torch.ones(8, 1)}
    result = SplitStatisticsd(keys=["a", "absent", "b"], allow_missing_keys=True)(data)
    assert {key: len(value) for key, value in result.items() if key.endswith("entropy")} == {
        "a_entropy": 1,
        "b_entropy": 2,
    }
    with pytest.raises(KeyError, match="absent"):
        SplitStatisticsd(keys=["a", "absent"])(data)
    assert SplitStatisticsD is SplitStatisticsDict is SplitStatisticsd


@pytest.mark.parametrize("channels", [0, 1, 3, 6])
def test_errors(channels: int) -> None:
    with pytest.raises(ValueError, match=rf"shape \({channels}, 2, 3\), expected a multiple of 4 channels: mean"):
        SplitStatistics()(torch.zeros(channels, 2, 3))
