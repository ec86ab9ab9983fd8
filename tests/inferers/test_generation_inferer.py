# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from monai_segdiff.exceptions import DivergenceError
from monai_segdiff.inferers.generation_inferer import GenerationInferer
from monai_segdiff.inferers.generation_statistics import CategoricalUncertaintyStatistics, UncertaintyStatistics
from monai_segdiff.inferers.packed_network import PackedRows

sys.path.insert(0, str(Path(__file__).parent))
from inferer_stand_ins import StandIn, image_of  # noqa: E402


class Levels:
    """A generation's result is its number, in tenths; of a trajectory a tenth of that before."""

    def __init__(self, device: torch.device, trajectory: bool, classes: int) -> None:
        self.device = device
        self.trajectory = trajectory
        self.classes = classes

    def __call__(self, predict: PackedRows, keys: Sequence[Sequence[int]], shape: Sequence[int]) -> torch.Tensor:
        result = torch.cat([torch.full((1, self.classes, *shape[1:]), float(generation)) for generation, *_ in keys])
        return torch.cat([result / 10, result], dim=1) if self.trajectory else result

    def probability(self, masks: torch.Tensor) -> torch.Tensor:
        return masks / 10

    def blank(self, shape: Sequence[int]) -> torch.Tensor:
        return torch.zeros(*shape)


class LevelInferer(GenerationInferer):
    num_calls = 2

    def __init__(self, classes: int = 1, **arguments: Any) -> None:
        super().__init__(**({"num_generations": 4} | arguments))
        self.classes = classes
        self.asked: list[tuple[Any, torch.device, bool]] = []

    def make_sampler(self, network: Any, device: torch.device, trajectory: bool) -> Levels:
        self.asked.append((network, device, trajectory))
        return Levels(device, trajectory, self.classes)


def test_a_subclass_says_how_generations_are_drawn() -> None:
    with pytest.raises(TypeError, match="abstract"):
        GenerationInferer()  # type: ignore[abstract]
    inferer, network, image = LevelInferer(roi_size=8), StandIn(), image_of(2, 1, 12, 10)
    # The channels are those of what is drawn.
    for classes in (1, 3):
        inferer.classes = classes
        expected = torch.full((2, classes, 12, 10), 0.15)
        torch.testing.assert_close(inferer(image, network), expected)
        torch.testing.assert_close(
            inferer.generations(image, network), torch.stack([i / 10 * torch.ones_like(expected) for i in range(4)])
        )
        torch.testing.assert_close(inferer.trajectory(image, network), torch.stack([expected / 10, expected]))
    inferer(image, nn.DataParallel(network))
    cpu = torch.device("cpu")
    assert inferer.asked == [(network, cpu, trajectory) for trajectory in (False, False, True) * 2 + (False,)]


@pytest.mark.parametrize("tally", [UncertaintyStatistics, CategoricalUncertaintyStatistics])
def test_the_tally_says_of_which_kind_the_uncertainty_is(tally: type[UncertaintyStatistics]) -> None:
    inferer = LevelInferer(classes=2)
    if tally is not UncertaintyStatistics:
        inferer.tally = tally
    found = inferer.statistics(image_of(1, 1, 8, 8), StandIn())
    single = torch.arange(4) / 10
    h = torch.special.entr(single) * 2 if tally is CategoricalUncertaintyStatistics else entropy(single)
    mean = torch.tensor(0.15)
    of_mean = torch.special.entr(mean) * 2 if tally is CategoricalUncertaintyStatistics else entropy(mean)
    channels = 1 if tally is CategoricalUncertaintyStatistics else 2
    torch.testing.assert_close(found.mean, mean.expand(1, 2, 8, 8))
    torch.testing.assert_close(found.variance, single.var(correction=0).expand(1, 2, 8, 8))
    torch.testing.assert_close(found.entropy, of_mean.expand(1, channels, 8, 8))
    torch.testing.assert_close(found.mutual_information, (of_mean - h.mean()).expand(1, channels, 8, 8))


def entropy(probability: torch.Tensor) -> torch.Tensor:
    return torch.special.entr(probability) + torch.special.entr(1 - probability)


def test_results_stay_within_0_and_1() -> None:
    # A blend may exceed 1 by rounding; more than that would be the sampler's error, but is not let through either.
    inferer, image = LevelInferer(num_generations=40), image_of(1, 1, 8, 8)
    assert (inferer(image, StandIn()) == 1).all()
    assert inferer.generations(image, StandIn()).max() == 1
    assert inferer.trajectory(image, StandIn()).max() == 1


def test_nan_is_refused() -> None:
    class Damaged(Levels):
        def probability(self, masks: torch.Tensor) -> torch.Tensor:
            return masks / 0

    class DamagedInferer(LevelInferer):
        def make_sampler(self, network: Any, device: torch.device, trajectory: bool) -> Levels:
            return Damaged(device, trajectory, self.classes)

    with pytest.raises(DivergenceError, match="Expected finite probabilities, found NaN"):
        DamagedInferer()(image_of(1, 1, 8, 8), StandIn())


def test_a_subclass_may_refuse_a_network_before_the_image_is_looked_at() -> None:
    class Choosy(LevelInferer):
        def make_sampler(self, network: Any, device: torch.device, trajectory: bool) -> Levels:
            raise TypeError("network must be another")

    with pytest.raises(TypeError, match="network must be another"):
        Choosy()(torch.zeros(1, 7, 8, 8), StandIn())
