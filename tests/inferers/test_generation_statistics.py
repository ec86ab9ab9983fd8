# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import torch

from monai_segdiff import GenerationStatistics
from monai_segdiff.inferers.generation_statistics import mask_to_probability


def test_each_generation_is_clamped() -> None:
    masks = torch.tensor([-7.0, -1.0, 0.0, 0.5, 1.0, 3.0])
    assert mask_to_probability(masks).tolist() == [0.0, 0.0, 0.5, 0.75, 1.0, 1.0]


def test_hand_made_values() -> None:
    # Four generations of four pixels: agreed background, agreed foreground, a tie, and one dissenter.
    generations = torch.tensor([[0.0, 1, 1, 1], [0, 1, 1, 1], [0, 1, 0, 1], [0, 1, 0, 0]]).reshape(4, 1, 1, 4)
    statistics = GenerationStatistics.from_generations(generations)
    assert statistics.mean.flatten().tolist() == [0, 1, 0.5, 0.75]
    assert statistics.variance.flatten().tolist() == [0, 0, 0.25, 0.1875]
    dissent = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    torch.testing.assert_close(statistics.entropy.flatten(), torch.tensor([0, 0, math.log(2), dissent]))
