# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import itertools
from typing import Any

import torch
from monai.inferers import Inferer
from torch import nn

from benchmarks.flips_inferer import FlipsInferer


class Ramp(Inferer):
    """Weighs each pixel by its position, which no flip or turn leaves as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, ...]] = []

    def __call__(self, inputs: torch.Tensor, network: nn.Module, *args: Any, **kwargs: Any) -> torch.Tensor:
        self.calls.append((inputs, network, args, kwargs))
        return inputs * self.weights(*inputs.shape[2:])

    @staticmethod
    def weights(height: int, width: int) -> torch.Tensor:
        return torch.arange(1.0, height * width + 1).view(height, width)


def test_mean_over_the_symmetries_of_the_square() -> None:
    image = torch.randn(2, 3, 3, 5, generator=torch.Generator().manual_seed(0))
    expected = torch.zeros_like(image)
    # Another way to write the same eight: transposed or not, and mirrored along each axis or not.
    for transposed, *mirrored in itertools.product((False, True), repeat=3):
        axes = [axis for axis, yes in zip((2, 3), mirrored, strict=True) if yes]
        turned = (image.transpose(2, 3) if transposed else image).flip(axes)
        found = (turned * Ramp.weights(*turned.shape[2:])).flip(axes)
        expected += (found.transpose(2, 3) if transposed else found) / 8
    inner, network = Ramp(), nn.Identity()
    torch.testing.assert_close(FlipsInferer(inner)(image, network, 7, key=8), expected)
    assert [call[1:] for call in inner.calls] == [(network, (7,), {"key": 8})] * 8
    assert torch.equal(inner.calls[0][0], image)


def test_what_turns_with_the_image_stays() -> None:
    class Same(Inferer):
        def __call__(self, inputs: torch.Tensor, network: nn.Module, *args: Any, **kwargs: Any) -> torch.Tensor:
            return inputs

    image = torch.rand(1, 1, 4, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(FlipsInferer(Same())(image, nn.Identity()), image)
