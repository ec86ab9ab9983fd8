# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import pytest
import torch

from monai_segdiff import DenseEncoder


@pytest.mark.parametrize("size", [(20, 12), (7, 5), (8, 8, 6)])
def test_shape_gradient_and_reach(size: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    encoder = DenseEncoder(len(size), 3, 8, channels=8, growth_channels=4, num_layers=3, num_levels=3)
    image = torch.randn(2, 3, *size, requires_grad=True)
    features = encoder(image)
    assert features.shape == (2, 8, *size)
    features[(0, 0, *[0] * len(size))].square().backward()
    assert image.grad is not None
    assert image.grad[0].all(dim=0).all(), "the coarsest level sees the whole of a small image"
    assert not image.grad[1].any(), "images of a batch do not mix"
    assert all(p.grad is not None and p.grad.any() for p in encoder.parameters())


@torch.no_grad()
def test_one_level_is_a_dense_block_between_convolutions() -> None:
    torch.manual_seed(0)
    encoder = DenseEncoder(2, 3, 8, channels=4, growth_channels=4, num_layers=2, num_levels=1)
    image = torch.randn(1, 3, 6, 6)
    first, second = encoder.down[0][0].layers0, encoder.down[0][0].layers1
    hidden = encoder.first(image)
    hidden = torch.cat([hidden, first(hidden)], 1)
    hidden = torch.cat([hidden, second(hidden)], 1)
    assert torch.equal(encoder(image), encoder.last(encoder.down[0][1](hidden)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channels": 6}, "channels must be at least 1 and a multiple of 4, found 6"),
        ({"growth_channels": 0}, "growth_channels must be at least 1 and a multiple of 4, found 0"),
        ({"num_layers": 0}, "num_layers must be at least 1, found 0"),
        ({"num_levels": 0}, "num_levels must be at least 1, found 0"),
    ],
)
def test_bad_arguments(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DenseEncoder(2, 3, 8, **changes)


def test_parameters_of_the_published_network_with_this_encoder() -> None:
    with torch.device("meta"):
        encoder = DenseEncoder(2, 3, 128)
    # Beside the U-Net's, which tests/networks/nets/test_segdiff_unet.py counts.
    assert 155_372_161 + sum(p.numel() for p in encoder.parameters()) == 155_626_721
