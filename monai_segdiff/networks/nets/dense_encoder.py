# SPDX-License-Identifier: Apache-2.0
"""A densely connected image encoder, in the place of SegDiff's RRDBs."""

from __future__ import annotations

import torch
from monai.networks.blocks import Convolution
from monai.networks.blocks.denseblock import ConvDenseBlock
from monai.networks.layers.factories import Pool
from torch import nn
from torch.nn import functional as F

__all__ = ["DenseEncoder"]

NORM_NUM_GROUPS = 4


class DenseEncoder(nn.Module):
    """U-shaped image encoder of dense blocks, for ``SegDiffUNet(image_encoder=...)``.

    The paper's second variant takes FC-HarDNet-70, which MONAI does not have, instead of the RRDBs. This is **a
    stand-in, not that network**: like it, a fully convolutional encoder and decoder of densely connected blocks with
    skip connections and full-resolution output; unlike it, every layer sees all earlier ones (MONAI's
    ``ConvDenseBlock``, no harmonic connections), normalisation is by groups, and nothing is pre-trained.

    Args:
        spatial_dims: number of spatial dimensions, 2 or 3.
        in_channels: channels of the image.
        out_channels: channels of the features; must equal the width of the U-Net's first level.
        channels: width between blocks, a multiple of 4.
        growth_channels: channels that each layer of a block adds, a multiple of 4.
        num_layers: layers of a block.
        num_levels: resolutions, each half of the one before.

    Example:
        >>> encoder = DenseEncoder(spatial_dims=2, in_channels=3, out_channels=32)
        >>> encoder(torch.zeros(1, 3, 20, 12)).shape
        torch.Size([1, 32, 20, 12])
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        channels: int = 32,
        growth_channels: int = 16,
        num_layers: int = 4,
        num_levels: int = 3,
    ) -> None:
        super().__init__()
        settings = {
            "channels": channels,
            "growth_channels": growth_channels,
            "num_layers": num_layers,
            "num_levels": num_levels,
        }
        for name, value in settings.items():
            if value < 1 or (name.endswith("channels") and value % NORM_NUM_GROUPS):
                multiple = f" and a multiple of {NORM_NUM_GROUPS}" if name.endswith("channels") else ""
                raise ValueError(f"{name} must be at least 1{multiple}, found {value}.")

        def block(width: int) -> nn.Sequential:
            norm = ("group", {"num_groups": NORM_NUM_GROUPS})
            dense = ConvDenseBlock(spatial_dims, width, [growth_channels] * num_layers, act="relu", norm=norm)
            width += growth_channels * num_layers
            return nn.Sequential(dense, Convolution(spatial_dims, width, channels, kernel_size=1, conv_only=True))

        self.first = Convolution(spatial_dims, in_channels, channels, conv_only=True)
        self.down = nn.ModuleList(block(channels) for _ in range(num_levels))
        self.up = nn.ModuleList(block(2 * channels) for _ in range(num_levels - 1))
        self.last = Convolution(spatial_dims, channels, out_channels, conv_only=True)
        # Odd sizes keep their last row.
        self.pool = Pool[Pool.AVG, spatial_dims](kernel_size=2, ceil_mode=True)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Encode an image.

        Args:
            image: ``[B, in_channels, *spatial]``, of any size.

        Returns:
            Features ``[B, out_channels, *spatial]``.
        """
        hidden = self.first(image)
        skips: list[torch.Tensor] = []
        for level, block in enumerate(self.down):
            if level > 0:
                skips.append(hidden)
                hidden = self.pool(hidden)
            hidden = block(hidden)
        for block in self.up:
            skip = skips.pop()
            hidden = block(torch.cat([F.interpolate(hidden, size=skip.shape[2:], mode="nearest"), skip], dim=1))
        return self.last(hidden)
