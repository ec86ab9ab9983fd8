# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from monai_segdiff import RRDB, ResidualDenseBlock


def dense_block_by_hand(block: ResidualDenseBlock, x: torch.Tensor) -> torch.Tensor:
    conv = F.conv2d if x.ndim == 4 else F.conv3d
    grown = []
    for layer in (block.conv1, block.conv2, block.conv3, block.conv4):
        joined = torch.cat([x, *grown], dim=1)
        grown.append(F.leaky_relu(conv(joined, layer.weight, layer.bias, padding=1), 0.2))
    joined = torch.cat([x, *grown], dim=1)
    return x + 0.2 * conv(joined, block.conv5.weight, block.conv5.bias, padding=1)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_blocks_equal_the_formula(spatial_dims: int) -> None:
    torch.manual_seed(0)
    rrdb = RRDB(spatial_dims, channels=6, growth_channels=4)
    x = torch.randn(2, 6, *[7, 5, 6][:spatial_dims])
    expected = dense_block_by_hand(rrdb.RDB1, x)
    torch.testing.assert_close(rrdb.RDB1(x), expected)
    for block in (rrdb.RDB2, rrdb.RDB3):
        expected = dense_block_by_hand(block, expected)
    torch.testing.assert_close(rrdb(x), x + 0.2 * expected)


def test_input_is_left_alone() -> None:
    x = torch.full((1, 64, 4, 4), -1.0)
    ResidualDenseBlock(2)(x)
    assert (x == -1).all()


def test_published_parameter_count() -> None:
    assert sum(p.numel() for p in RRDB(2).parameters()) == 719_424
