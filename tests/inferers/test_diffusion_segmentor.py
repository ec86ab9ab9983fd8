# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import torch
from monai.inferers import Inferer, SimpleInferer
from torch import nn

from monai_segdiff import DiffusionSegmentor


class Doubling(Inferer):
    def __call__(self, inputs: torch.Tensor, network: nn.Module, *args: object, **kwargs: object) -> torch.Tensor:
        return 2 * network(inputs)


def test_forward_is_the_inferers_result() -> None:
    network, image = nn.Conv2d(3, 1, 1), torch.randn(1, 3, 4, 4)
    assert torch.equal(DiffusionSegmentor(network, SimpleInferer())(image), network(image))
    segmentor = DiffusionSegmentor(network, Doubling())
    assert torch.equal(segmentor(image), 2 * network(image))
    assert set(segmentor.state_dict()) == {"network.weight", "network.bias"}
