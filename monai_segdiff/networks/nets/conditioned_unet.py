# SPDX-License-Identifier: Apache-2.0
"""MONAI's diffusion U-Net with an entry for image features."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, cast

import torch
from monai.networks.blocks import SpatialAttentionBlock
from monai.networks.nets import DiffusionModelUNet
from monai.networks.nets.diffusion_model_unet import DiffusionUNetResnetBlock, get_timestep_embedding
from torch import nn

__all__ = ["ConditionedUNet"]


class ConditionedUNet(DiffusionModelUNet):
    """Encoder E and decoder D of SegDiff (eq. 17 of arXiv 2112.00390): MONAI's U-Net after its first convolution.

    What enters a level is also what that level keeps as its skip connection, so features that are added at a level
    reach its decoder as well. Differences from ``DiffusionModelUNet``: ``conv_in`` is left to the caller, dropout, and
    attention projections that start at zero, as published.

    Args:
        entry_level: number of downsamplings after which the image features are added; 0: before the first block.
        entry_channels: width of what enters the first level, if it is not the first of ``channels``.
        dropout: probability, before the second convolution of each residual block.
        kwargs: of ``DiffusionModelUNet``.
    """

    def __init__(
        self, *, entry_level: int = 0, entry_channels: int | None = None, dropout: float = 0.0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.entry_level = entry_level
        width = self.block_out_channels[0]
        if entry_channels is not None:
            # The two blocks that see it: the first one of E, and the last one of D, by the first skip connection.
            for block, index in ((self.down_blocks[0], 0), (self.up_blocks[-1], -1)):
                resnets = cast(nn.ModuleList, block.resnets)
                old = cast(DiffusionUNetResnetBlock, resnets[index])
                resnets[index] = _with_input(old, old.channels - width + entry_channels)
        for module in self.modules():
            if isinstance(module, SpatialAttentionBlock):
                # Published: every residual branch starts at zero. MONAI does so for all but this one.
                for parameter in module.attn.out_proj.parameters():
                    nn.init.zeros_(parameter)
            elif isinstance(module, DiffusionUNetResnetBlock) and dropout > 0:
                # Same state-dict keys as without dropout, so that weights move freely between the two.
                inner = module.conv2.get_submodule("conv")
                module.conv2 = nn.Sequential(OrderedDict(dropout=nn.Dropout(dropout), conv=inner))

    def forward(  # type: ignore[override]
        self, x: torch.Tensor, timesteps: torch.Tensor, image_features: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Predict from mask features.

        Args:
            x: what enters the first level, ``[B, entry_channels, *spatial]``.
            timesteps: integers or floats of shape ``(1,)`` or ``(B,)``.
            image_features: added after ``entry_level`` downsamplings, shaped like what is there. None: nothing is.

        Returns:
            ``[B, out_channels, *spatial]``.
        """
        # A tensor of shape (1,) stays one row: the time embedding is computed once and broadcast over the batch.
        embedding = self.time_embed(get_timestep_embedding(timesteps, self.block_out_channels[0]).to(x.dtype))
        hidden = self._enter(0, x, image_features)
        skips = [hidden]
        for level, block in enumerate(self.down_blocks, start=1):
            hidden, outputs = block(hidden_states=hidden, temb=embedding)
            hidden = self._enter(level, hidden, image_features)
            skips += [*outputs[:-1], hidden]
        hidden = self.middle_block(hidden_states=hidden, temb=embedding)
        for block in self.up_blocks:
            own = [skips.pop() for _ in cast(nn.ModuleList, block.resnets)]
            hidden = block(hidden_states=hidden, res_hidden_states_list=own[::-1], temb=embedding)
        return self.out(hidden)

    def _enter(self, level: int, hidden: torch.Tensor, image_features: torch.Tensor | None) -> torch.Tensor:
        return hidden if image_features is None or level != self.entry_level else hidden + image_features


def _with_input(block: DiffusionUNetResnetBlock, in_channels: int) -> DiffusionUNetResnetBlock:
    """Make the same block for another input width."""
    return DiffusionUNetResnetBlock(
        spatial_dims=block.spatial_dims,
        in_channels=in_channels,
        temb_channels=block.emb_channels,
        out_channels=block.out_channels,
        norm_num_groups=block.norm1.num_groups,
        norm_eps=block.norm1.eps,
    )
