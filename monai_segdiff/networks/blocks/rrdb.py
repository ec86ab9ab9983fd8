# SPDX-License-Identifier: Apache-2.0
"""Residual-in-residual dense blocks, the body of SegDiff's image encoder."""

from __future__ import annotations

import torch
from monai.networks.layers.factories import Conv
from torch import nn

__all__ = ["RRDB", "ResidualDenseBlock"]

RESIDUAL_SCALE = 0.2
NEGATIVE_SLOPE = 0.2


class ResidualDenseBlock(nn.Module):
    """Five 3-wide convolutions, each reading all earlier results, inside a scaled residual.

    With ``x_k = lrelu(conv_k(cat[x, x_1, ..., x_{k-1}]))`` for k = 1..4 the block returns
    ``x + 0.2 * conv_5(cat[x, x_1, ..., x_4])``. No normalisation; spatial size and channels are kept.

    Args:
        spatial_dims: number of spatial dimensions, 2 or 3.
        channels: channels of the input and the output.
        growth_channels: channels that each of the first four convolutions adds.

    Example:
        >>> ResidualDenseBlock(spatial_dims=2, channels=64, growth_channels=32)(torch.zeros(1, 64, 8, 8)).shape
        torch.Size([1, 64, 8, 8])
    """

    def __init__(self, spatial_dims: int, channels: int = 64, growth_channels: int = 32) -> None:
        super().__init__()
        conv = Conv[Conv.CONV, spatial_dims]
        self.conv1 = conv(channels, growth_channels, 3, padding=1)
        self.conv2 = conv(channels + growth_channels, growth_channels, 3, padding=1)
        self.conv3 = conv(channels + 2 * growth_channels, growth_channels, 3, padding=1)
        self.conv4 = conv(channels + 3 * growth_channels, growth_channels, 3, padding=1)
        self.conv5 = conv(channels + 4 * growth_channels, channels, 3, padding=1)
        self.act = nn.LeakyReLU(NEGATIVE_SLOPE, inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Args and result: ``[B, channels, *spatial]``."""
        dense = x
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            dense = torch.cat([dense, self.act(conv(dense))], dim=1)
        return x + RESIDUAL_SCALE * self.conv5(dense)


class RRDB(nn.Module):
    """Three dense blocks in a row inside a further scaled residual: ``x + 0.2 * RDB3(RDB2(RDB1(x)))``.

    Args:
        spatial_dims: number of spatial dimensions, 2 or 3.
        channels: channels of the input and the output. SegDiff uses 64.
        growth_channels: growth inside the dense blocks. SegDiff uses 32, which makes 719,424 parameters in 2-D.
    """

    def __init__(self, spatial_dims: int, channels: int = 64, growth_channels: int = 32) -> None:
        super().__init__()
        self.RDB1 = ResidualDenseBlock(spatial_dims, channels, growth_channels)
        self.RDB2 = ResidualDenseBlock(spatial_dims, channels, growth_channels)
        self.RDB3 = ResidualDenseBlock(spatial_dims, channels, growth_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Args and result: ``[B, channels, *spatial]``."""
        return x + RESIDUAL_SCALE * self.RDB3(self.RDB2(self.RDB1(x)))
