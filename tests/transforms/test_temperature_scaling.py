# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import pytest
import torch
from monai.data import MetaTensor

from monai_segdiff import ProbabilityToMask
from monai_segdiff.transforms.temperature_scaling import TemperatureScaling, TemperatureScalingd

TYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@pytest.mark.parametrize(
    ("temperature", "expected"),
    [
        # Odds are raised to the power 1 / T.
        (2.0, [1 / (1 + 9999**0.5), 1 / 4, 1 / 3, 1 / 2, 3 / 4, 1 / (1 + 9999**-0.5)]),
        (0.5, [1 / (1 + 9999**2), 1 / 82, 1 / 17, 1 / 2, 81 / 82, 1 / (1 + 9999**-2)]),
    ],
)
def test_closed_forms(temperature: float, expected: list[float]) -> None:
    probability = torch.tensor([[0.0, 0.1, 0.2, 0.5, 0.9, 1.0]], dtype=torch.float64)
    found = TemperatureScaling(temperature)(probability)
    torch.testing.assert_close(found, torch.tensor([expected], dtype=torch.float64), rtol=1e-9, atol=0)
    assert probability[0, 0] == 0


@pytest.mark.parametrize("temperature", [0.05, 0.7, 1.0, 3.0, 20.0, 1e6])
@pytest.mark.parametrize("dtype", TYPES)
def test_the_mask_at_one_half_stays(dtype: torch.dtype, temperature: float) -> None:
    eps = torch.finfo(dtype).eps
    near = [0.5 - eps, 0.5 - eps / 2, 0.5 - eps / 4, 0.5, 0.5 + eps / 2, 0.5 + eps]
    probability = torch.tensor([[0, 1e-6, 0.3, *near, 0.8, 1]], dtype=torch.float64).to(dtype)
    found = TemperatureScaling(temperature)(probability)
    assert found.dtype == dtype
    assert torch.equal(ProbabilityToMask()(found), ProbabilityToMask()(probability))
    assert found[probability == 0.5].tolist() == [0.5]
    assert ((found >= 0) & (found <= 1)).all()
    assert (found.diff() >= 0).all()


@pytest.mark.parametrize("dtype", TYPES)
def test_temperature_one_changes_no_bit(dtype: torch.dtype) -> None:
    probability = torch.cat([torch.tensor([0.0, -0.0, 1e-7, 0.5, 1.0]), torch.rand(100)]).to(dtype)
    assert TemperatureScaling(1)(probability) is probability


def test_dictionary_form_keeps_meta_data_and_other_items() -> None:
    data = {"pred": MetaTensor(torch.tensor([[0.1, 0.9]]), meta={"filename_or_obj": "a.png"}), "image": 1}
    result = TemperatureScalingd(keys="pred", temperature=2)(data)
    assert result["pred"].tolist() == [pytest.approx([0.25, 0.75])]
    assert isinstance(result["pred"], MetaTensor)
    assert result["pred"].meta["filename_or_obj"] == "a.png"
    assert result["image"] == 1
    assert data["pred"].tolist() == [pytest.approx([0.1, 0.9])]
    absent = TemperatureScalingd(keys=["pred", "absent"], temperature=2, allow_missing_keys=True)
    assert torch.equal(absent(data)["pred"], result["pred"])


@pytest.mark.parametrize("temperature", [0, -1.0, math.nan, math.inf])
def test_bad_temperature(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature is .*, expected a finite number above 0"):
        TemperatureScaling(temperature)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0.1, 1.1], "values from 0.1 to 1.1, expected 0 to 1"),
        ([-0.1, 1.0], "values from -0.1 to 1"),
        ([0.1, math.nan], "values from nan to nan"),
        ([0, 1], "type torch.int64, expected floating point"),
    ],
)
def test_bad_probabilities(values: list, message: str, temperature: float) -> None:
    with pytest.raises(ValueError, match=message):
        TemperatureScaling(temperature)(torch.tensor(values))
