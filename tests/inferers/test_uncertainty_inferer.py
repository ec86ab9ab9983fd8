# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from monai.data import MetaTensor

from monai_segdiff import GenerationStatistics, SplitStatistics, UncertaintyInferer

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


def test_classes_that_exclude_each_other() -> None:
    parts = [torch.rand(2, channels, 5, 4) for channels in (3, 3, 1, 1)]

    class Stub:
        num_generations = 2

        def statistics(self, inputs: torch.Tensor, network: torch.nn.Module) -> GenerationStatistics:
            return GenerationStatistics(*parts)

    found = UncertaintyInferer(Stub())(torch.zeros(2, 1, 5, 4), torch.nn.Identity())
    mean, deviation, entropy, information = SplitStatistics(categorical=True)(found.movedim(1, 0))
    for part, expected in zip((mean, deviation**2, entropy, information), parts, strict=True):
        torch.testing.assert_close(part.movedim(0, 1), expected)


def test_one_generation_is_refused() -> None:
    with pytest.raises(ValueError, match="num_generations must be at least 2 for uncertainty, found 1"):
        UncertaintyInferer(inferer(num_generations=1))
