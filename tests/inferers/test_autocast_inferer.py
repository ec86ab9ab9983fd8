# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import pytest
import torch
from monai.inferers import Inferer, SimpleInferer
from torch import nn

from monai_segdiff import AutocastInferer


class Recording(nn.Module):
    """Remembers in which precision its layer computed."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 2, 3)
        self.seen: list[torch.dtype] = []

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        result = self.layer(image)
        self.seen.append(result.dtype)
        return result


def test_network_in_bfloat16_and_result_in_float32() -> None:
    torch.manual_seed(0)
    network, image = Recording(), torch.randn(1, 3, 8, 8)
    exact = network(image)
    found = AutocastInferer(SimpleInferer())(image, network)
    assert network.seen == [torch.float32, torch.bfloat16]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, exact, atol=0.02, rtol=0.02)
    assert not torch.equal(found, exact)


def test_gradients_are_those_of_float32_but_for_rounding() -> None:
    torch.manual_seed(0)
    network, image = Recording(), torch.randn(1, 3, 8, 8)
    gradients = []
    for enabled in (False, True):
        network.zero_grad()
        AutocastInferer(SimpleInferer(), enabled)(image, network).square().mean().backward()
        gradient = network.layer.weight.grad
        assert gradient is not None
        assert gradient.dtype == torch.float32
        gradients.append(gradient.clone())
    torch.testing.assert_close(gradients[1], gradients[0], atol=0.02, rtol=0.05)


def test_switched_off_it_changes_nothing() -> None:
    network, image = Recording(), torch.randn(1, 3, 8, 8)
    assert torch.equal(AutocastInferer(SimpleInferer(), enabled=False)(image, network), network(image))
    assert network.seen == [torch.float32, torch.float32]


@pytest.mark.parametrize("enabled", [True, False])
def test_arguments_arrive(enabled: bool) -> None:
    class Arguments(Inferer):
        def __call__(self, inputs: torch.Tensor, network: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
            assert (args, kwargs) == ((1,), {"noise": 2})
            return inputs

    image = torch.ones(1)
    assert torch.equal(AutocastInferer(Arguments(), enabled)(image, nn.Identity(), 1, noise=2), image)
