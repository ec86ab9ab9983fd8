# SPDX-License-Identifier: Apache-2.0
"""The image encoder of SegDiff."""

from __future__ import annotations

import torch
from monai.networks.layers.factories import Conv
from torch import nn
from torch.nn import functional as F

from ..blocks.rrdb import NEGATIVE_SLOPE, RRDB

__all__ = ["RRDBEncoder"]


class RRDBEncoder(nn.Module):
    """Full-resolution image encoder: a trunk of RRDBs between two convolutions and a two-layer head.

    It sees neither the timestep nor the noisy mask, so its output holds for all steps and all generations of one
    image (G in eq. 17 of arXiv 2112.00390).

    ``a = conv_first(image)``, ``b = trunk_conv(RRDBs(a))``, ``features = conv_last(lrelu(HRconv(a + b)))``.

    Args:
        spatial_dims: number of spatial dimensions, 2 or 3.
        in_channels: channels of the image.
        out_channels: channels of the features; must equal the width of the U-Net's first level.
        num_blocks: number of RRDBs. Published: 12 for MoNuSeg, 6 for Vaihingen, 15 for Cityscapes.
        channels: channels inside the trunk.
        growth_channels: growth inside the dense blocks.

    Example:
        >>> encoder = RRDBEncoder(spatial_dims=2, in_channels=3, out_channels=128, num_blocks=12)
        >>> sum(p.numel() for p in encoder.parameters())
        8782592
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        num_blocks: int = 12,
        channels: int = 64,
        growth_channels: int = 32,
    ) -> None:
        super().__init__()
        conv = Conv[Conv.CONV, spatial_dims]
        self.conv_first = conv(in_channels, channels, 3, padding=1)
        self.RRDB_trunk = nn.Sequential(*(RRDB(spatial_dims, channels, growth_channels) for _ in range(num_blocks)))
        self.trunk_conv = conv(channels, channels, 3, padding=1)
        self.HRconv = conv(channels, channels, 3, padding=1)
        self.conv_last = conv(channels, out_channels, 3, padding=1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Encode an image.

        Args:
            image: ``[B, in_channels, *spatial]``.

        Returns:
            Features ``[B, out_channels, *spatial]``.
        """
        first = self.conv_first(image)
        trunk = first + self.trunk_conv(self.RRDB_trunk(first))
        return self.conv_last(F.leaky_relu(self.HRconv(trunk), NEGATIVE_SLOPE))
