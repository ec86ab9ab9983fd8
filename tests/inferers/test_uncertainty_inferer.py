# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from monai.data import MetaTensor

from monai_segdiff import GenerationStatistics, SegmentorInferer, SplitStatistics, UncertaintyInferer

sys.path.insert(0, str(Path(__file__).parent))
from inferer_stand_ins import Pointwise, image_of, inferer  # noqa: E402


def test_channels_are_the_statistics_one_after_another() -> None:
    sampler, network = inferer(roi_size=16, num_generations=3), Pointwise(channels=2)
    image = MetaTensor(image_of(2, 2, 20, 24), meta={"filename_or_obj": "a.png"})
    found = UncertaintyInferer(sampler)(image, network, "engines", may="pass more")
    statistics = sampler.statistics(image, network)
    assert found.shape == (2, 6, 20, 24)
    for i, name in enumerate(("mean", "standard_deviation", "mutual_information")):
        assert torch.equal(found[:, 2 * i : 2 * i + 2], getattr(statistics, name)), name
    assert isinstance(found, MetaTensor)
    assert found.meta["filename_or_obj"] == "a.png"


def test_classes_that_exclude_each_other() -> None:
    mean, variance, information = (torch.rand(2, channels, 5, 4) for channels in (3, 3, 1))
    statistics = GenerationStatistics.from_maps(mean.softmax(dim=1), variance, information)

    class Stub:
        num_generations = 2

        def statistics(self, inputs: torch.Tensor, network: torch.nn.Module) -> GenerationStatistics:
            return statistics

    found = UncertaintyInferer(Stub())(torch.zeros(2, 1, 5, 4), torch.nn.Identity())
    for image, *expected in zip(found, *statistics, strict=True):
        mean, deviation, entropy, information = SplitStatistics(categorical=True)(image)
        for part, part_expected in zip((mean, deviation**2, entropy, information), expected, strict=True):
            torch.testing.assert_close(part, part_expected)


def test_one_generation_is_refused() -> None:
    with pytest.raises(ValueError, match="num_generations must be at least 2 for uncertainty, found 1"):
        UncertaintyInferer(inferer(num_generations=1))


def test_a_network_without_generations_is_refused() -> None:
    with pytest.raises(ValueError, match="several generations, of which SegmentorInferer has none"):
        UncertaintyInferer(SegmentorInferer(16))
