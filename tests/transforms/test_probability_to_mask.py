# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import torch
from monai.data import MetaTensor

from monai_segdiff import ProbabilityToMask, ProbabilityToMaskd


def test_exactly_the_threshold_is_background() -> None:
    probability = torch.tensor([[[0.0, 0.5, 0.5000001, 1.0]]])
    assert ProbabilityToMask()(probability).tolist() == [[[0, 0, 1, 1]]]
    assert ProbabilityToMask(threshold=0.7)(probability).tolist() == [[[0, 0, 0, 1]]]


def test_several_classes_become_indices() -> None:
    probability = torch.tensor([[0.9, 0.2, 0.6], [0.1, 0.3, 0.7], [0.0, 0.6, 0.5]])
    mask = ProbabilityToMask()(probability)
    assert mask.dtype == torch.uint8
    assert mask.tolist() == [[1, 3, 2]]


def test_dictionary_form_keeps_meta_data_and_other_items() -> None:
    data = {"pred": MetaTensor(torch.tensor([[0.4, 0.6]]), meta={"filename_or_obj": "a.png"}), "image": 1}
    result = ProbabilityToMaskd(keys="pred")(data)
    assert result["pred"].tolist() == [[0, 1]]
    assert result["pred"].meta["filename_or_obj"] == "a.png"
    assert result["image"] == 1
    assert data["pred"].max() < 1
    assert ProbabilityToMaskd(keys=["pred", "absent"], allow_missing_keys=True)(data)["pred"].tolist() == [[0, 1]]
