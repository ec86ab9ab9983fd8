# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from monai.data import MetaTensor

from monai_segdiff import UncertaintyInferer

sys.path.insert(0, str(Path(__file__).parent))
from inferer_stand_ins import Pointwise, image_of, inferer  # noqa: E402


def test_channels_are_the_statistics_one_after_another() -> None:
    sampler, network = inferer(roi_size=16, num_generations=3), Pointwise(channels=2)
    image = MetaTensor(image_of(2, 2, 20, 24), meta={"filename_or_obj": "a.png"})
    found = UncertaintyInferer(sampler)(image, network, "engines", may="pass more")
    statistics = sampler.statistics(image, network)
    assert found.shape == (2, 8, 20, 24)
    for i, name in enumerate(("mean", "standard_deviation", "entropy", "mutual_information")):
        assert torch.equal(found[:, 2 * i : 2 * i + 2], getattr(statistics, name)), name
    assert isinstance(found, MetaTensor)
    assert found.meta["filename_or_obj"] == "a.png"


def test_one_generation_is_refused() -> None:
    with pytest.raises(ValueError, match="num_generations must be at least 2 for uncertainty, found 1"):
        UncertaintyInferer(inferer(num_generations=1))
