# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_segdiff.transforms import SplitStatistics, SplitStatisticsD, SplitStatisticsd, SplitStatisticsDict

KEYS = ("pred", "pred_standard_deviation", "pred_entropy", "pred_mutual_information")


def entropy(probability: np.ndarray) -> np.ndarray:
    return -(probability * np.log(probability) + (1 - probability) * np.log(1 - probability))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(5, 7), (2, 3, 4)])
@pytest.mark.parametrize("kind", [torch.tensor, np.asarray])
def test_order_of_channels(channels: int, size: tuple[int, ...], kind: type) -> None:
    parts = np.random.default_rng(0).random((3, channels, *size), dtype=np.float32)
    mean, deviation, uncertainty, information = SplitStatistics()(kind(parts.reshape(3 * channels, *size)))
    for part, expected in zip((mean, deviation, information), parts, strict=True):
        np.testing.assert_array_equal(np.asarray(part), expected)
    np.testing.assert_allclose(np.asarray(uncertainty), entropy(parts[0].astype(float)), atol=1e-6)


@pytest.mark.parametrize("classes", [1, 2, 3])
def test_classes_that_exclude_each_other_have_one_entropy(classes: int) -> None:
    mean = torch.rand(classes, 2, 3).softmax(dim=0)
    values = torch.cat([mean, torch.full((classes, 2, 3), 7.0), torch.full((1, 2, 3), 8.0)])
    found = SplitStatistics(categorical=True)(values)
    assert torch.equal(found[0], mean)
    assert [part[:, 0, 0].tolist() for part in (found[1], found[3])] == [[7] * classes, [8]]
    torch.testing.assert_close(found[2], -(mean * mean.log()).sum(dim=0, keepdim=True))
    data = SplitStatisticsd("pred", categorical=True)({"pred": values})
    assert [data[key].shape[0] for key in KEYS] == [classes, classes, 1, 1]


def test_entropy_is_of_the_mean_that_is_there() -> None:
    """A sure 0 beside a sure 1 give a doubtful pixel when they are averaged."""
    fine = torch.tensor([[0.0, 1.0], [0.0, 0.0], [0.0, 0.0]])
    assert SplitStatistics()(fine)[2].tolist() == [[0, 0]]
    coarse = fine.mean(dim=1, keepdim=True)
    assert SplitStatistics()(coarse)[2].item() == pytest.approx(np.log(2))


def test_entropy_of_what_rounding_left_outside() -> None:
    assert SplitStatistics()(torch.tensor([[-1e-7, 1 + 1e-6], [0, 0], [0, 0]]))[2].tolist() == [[0, 0]]


@pytest.mark.parametrize("channels", [0, 1, 2, 4])
def test_errors_of_classes(channels: int) -> None:
    with pytest.raises(ValueError, match=rf"shape \({channels}, 2\), expected an odd number of at least 3 channels"):
        SplitStatistics(categorical=True)(torch.zeros(channels, 2))


def test_dictionary_form_keeps_meta_data_and_other_items() -> None:
    values = torch.arange(6.0)[:, None, None].expand(6, 2, 3) / 6
    affine = torch.diag(torch.tensor([2.0, 3.0, 1.0, 1.0], dtype=torch.float64))
    data = {"pred": MetaTensor(values, affine=affine, meta={"filename_or_obj": "a.png"}), "image": 1}
    result = SplitStatisticsd(keys="pred")(data)
    assert set(result) == {"image", *KEYS}
    assert result["image"] == 1
    for number, key in enumerate(KEYS):
        assert isinstance(result[key], MetaTensor)
        assert result[key].shape == (2, 2, 3)
        expected = [values[:2], values[2:4], SplitStatistics()(values)[2], values[4:]][number]
        assert torch.equal(result[key].as_tensor(), expected)
        assert result[key].meta["filename_or_obj"] == "a.png"
        assert torch.equal(result[key].affine, affine)
    assert data["pred"].shape == (6, 2, 3)


def test_several_and_missing_keys() -> None:
    data = {"a": torch.zeros(3, 1), "b": torch.ones(6, 1)}
    result = SplitStatisticsd(keys=["a", "absent", "b"], allow_missing_keys=True)(data)
    assert {key: len(value) for key, value in result.items() if key.endswith("entropy")} == {
        "a_entropy": 1,
        "b_entropy": 2,
    }
    with pytest.raises(KeyError, match="absent"):
        SplitStatisticsd(keys=["a", "absent"])(data)
    assert SplitStatisticsD is SplitStatisticsDict is SplitStatisticsd


@pytest.mark.parametrize("channels", [0, 1, 4, 5])
def test_errors(channels: int) -> None:
    with pytest.raises(ValueError, match=rf"shape \({channels}, 2, 3\), expected a multiple of 3 channels: mean"):
        SplitStatistics()(torch.zeros(channels, 2, 3))
