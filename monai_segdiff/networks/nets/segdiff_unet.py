# SPDX-License-Identifier: Apache-2.0
"""The denoising network of SegDiff."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from monai.networks.blocks import SpatialAttentionBlock
from monai.networks.nets import DiffusionModelUNet
from monai.networks.nets.diffusion_model_unet import DiffusionUNetResnetBlock
from torch import nn

from ..blocks.space_to_depth import depth_to_space, space_to_depth
from .rrdb_encoder import RRDBEncoder

__all__ = ["SegDiffUNet"]

PUBLISHED_NUM_HEADS = 4


class SegDiffUNet(nn.Module):
    """Denoiser of a mask, conditioned on an image: ``D(E(F(x_t) + G(I), t), t)`` (eq. 17 of arXiv 2112.00390).

    The mask encoder F is one convolution, the image encoder G a stack of RRDBs, E and D are MONAI's
    ``DiffusionModelUNet``. The sum is also the first skip connection, and the image enters nowhere else, so its
    features can be computed once (:meth:`encode_image`) and reused for all steps and generations.

    Args:
        spatial_dims: number of spatial dimensions, 2 or 3.
        image_channels: channels of the conditioning image.
        mask_channels: channels of the mask: one for each foreground class.
        channels: width of each level of the U-Net, from full resolution down; multiples of ``norm_num_groups``.
        attention_levels: for each level, whether its residual blocks are followed by self-attention.
        num_res_blocks: residual blocks in each level of E (D has one more).
        num_head_channels: channels of an attention head, for all levels or for each. Default: four heads, as published.
        num_rrdb_blocks: RRDBs in the image encoder.
        rrdb_channels: channels in the image encoder's trunk.
        rrdb_growth_channels: growth in the image encoder's dense blocks.
        image_encoder: another image encoder: any module that maps ``[B, image_channels * patch_size ** n, *size]`` to
            ``[B, channels[0], *size]``, where ``size`` is the spatial size divided by ``patch_size``. The three
            ``rrdb`` arguments are then unused.
        conditioning: where the image features enter. ``"sum"``: added to the mask features, the published method.
        patch_size: fold blocks of this many pixels into channels before the first convolutions and unfold them after
            the last. 1 is the published network; 2 costs about a quarter in 2-D.
        dropout: probability, before the second convolution of each residual block (0.1 for Vaihingen, else 0).
        norm_num_groups: groups of the group normalisation.
        norm_eps: epsilon of the group normalisation.
        use_flash_attention: use PyTorch's fused attention.

    Raises:
        ValueError: an argument that the levels cannot be built from; the message names it.

    Example:
        The published MoNuSeg network, 164,154,753 parameters::

            SegDiffUNet(
                spatial_dims=2, image_channels=3, mask_channels=1,
                channels=(128, 128, 128, 256, 256, 512, 512),
                attention_levels=(False, False, False, False, True, True, False),
                num_res_blocks=3, num_rrdb_blocks=12,
            )

        Training and sampling one step::

            >>> net = SegDiffUNet(2, 3, 1, channels=(32, 64), attention_levels=(False, False), num_rrdb_blocks=1)
            >>> image, noisy_mask = torch.zeros(1, 3, 16, 16), torch.zeros(1, 1, 16, 16)
            >>> net(noisy_mask, torch.tensor([7]), context=image).shape
            torch.Size([1, 1, 16, 16])
    """

    def __init__(
        self,
        spatial_dims: int,
        image_channels: int,
        mask_channels: int,
        channels: Sequence[int],
        attention_levels: Sequence[bool],
        num_res_blocks: int | Sequence[int] = 3,
        num_head_channels: int | Sequence[int] | None = None,
        num_rrdb_blocks: int = 12,
        rrdb_channels: int = 64,
        rrdb_growth_channels: int = 32,
        image_encoder: nn.Module | None = None,
        conditioning: str = "sum",
        patch_size: int = 1,
        dropout: float = 0.0,
        norm_num_groups: int = 32,
        norm_eps: float = 1e-5,
        use_flash_attention: bool = True,
    ) -> None:
        super().__init__()
        if spatial_dims not in (2, 3):
            raise ValueError(f"spatial_dims must be 2 or 3, found {spatial_dims}.")
        if conditioning != "sum":
            raise ValueError(f"conditioning must be 'sum', found {conditioning!r}.")
        if patch_size < 1:
            raise ValueError(f"patch_size must be at least 1, found {patch_size}.")
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout must lie in [0, 1), found {dropout}.")
        bad_widths = [width for width in channels if width % norm_num_groups]
        if bad_widths:
            raise ValueError(
                f"channels must be multiples of norm_num_groups={norm_num_groups}, found {bad_widths}; "
                f"the next valid widths are {[-(-w // norm_num_groups) * norm_num_groups for w in bad_widths]}."
            )

        self.spatial_dims = spatial_dims
        self.image_channels = image_channels
        self.mask_channels = mask_channels
        self.patch_size = patch_size
        self.size_divisor = patch_size * 2 ** (len(channels) - 1)
        folded = patch_size**spatial_dims

        self.image_encoder = image_encoder or RRDBEncoder(
            spatial_dims,
            in_channels=image_channels * folded,
            out_channels=channels[0],
            num_blocks=num_rrdb_blocks,
            channels=rrdb_channels,
            growth_channels=rrdb_growth_channels,
        )
        self.unet = DiffusionModelUNet(
            spatial_dims=spatial_dims,
            in_channels=mask_channels * folded,
            out_channels=mask_channels * folded,
            channels=channels,
            attention_levels=attention_levels,
            num_res_blocks=num_res_blocks,
            num_head_channels=num_head_channels or [width // PUBLISHED_NUM_HEADS for width in channels],
            norm_num_groups=norm_num_groups,
            norm_eps=norm_eps,
            use_flash_attention=use_flash_attention,
        )
        # The U-Net's first convolution is the mask encoder. Taking it out lets the sum be formed outside, and what
        # enters the U-Net is then also what it keeps as the first skip.
        self.mask_encoder: nn.Module = self.unet.conv_in
        self.unet.conv_in = nn.Identity()  # type: ignore[assignment]

        for module in self.unet.modules():
            if isinstance(module, SpatialAttentionBlock):
                # Published: every residual branch starts at zero. MONAI does so for all but this one.
                for parameter in module.attn.out_proj.parameters():
                    nn.init.zeros_(parameter)
            elif isinstance(module, DiffusionUNetResnetBlock) and dropout > 0:
                # Same state-dict keys as without dropout, so that weights move freely between the two.
                inner = module.conv2.get_submodule("conv")
                module.conv2 = nn.Sequential(OrderedDict(dropout=nn.Dropout(dropout), conv=inner))

    def encode_image(self, image: torch.Tensor) -> torch.Tensor:
        """Compute the image features, which hold for all timesteps and generations.

        Args:
            image: ``[B, image_channels, *spatial]``.

        Returns:
            ``[B, channels[0], *(spatial / patch_size)]``.

        Raises:
            ValueError: wrong number of dimensions or channels, or a size that the levels cannot divide.
        """
        self._check("image", image, self.image_channels)
        return self.image_encoder(space_to_depth(image, self.patch_size))

    def forward(
        self,
        x: torch.Tensor,
        timesteps: torch.Tensor,
        context: torch.Tensor | None = None,
        image_features: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Predict what the scheduler's ``prediction_type`` says (noise, clean mask or velocity).

        Args:
            x: noisy mask ``[B, mask_channels, *spatial]``.
            timesteps: integers or floats of shape ``(1,)`` or ``(B,)``, 0 the cleanest.
            context: conditioning image ``[B, image_channels, *spatial]``, the name MONAI's ``DiffusionInferer`` uses.
            image_features: result of :meth:`encode_image`; given instead of ``context``.

        Returns:
            ``[B, mask_channels, *spatial]``.

        Raises:
            ValueError: both or none of ``context`` and ``image_features`` given, wrong channels, dimensions or sizes.
        """
        self._check("x", x, self.mask_channels)
        if context is not None and image_features is None:
            image_features = self.encode_image(context)
        elif context is not None or image_features is None:
            raise ValueError("Give either the image as `context` or its `image_features`, not both and not neither.")
        # A tensor of shape (1,) stays one row: the time embedding is computed once and broadcast over the batch.
        hidden = self.mask_encoder(space_to_depth(x, self.patch_size)) + image_features
        return depth_to_space(self.unet(hidden, timesteps), self.patch_size)

    def _check(self, name: str, tensor: torch.Tensor, channels: int) -> None:
        if tensor.ndim != self.spatial_dims + 2 or tensor.shape[1] != channels:
            raise ValueError(
                f"{name} must have shape [B, {channels}, {self.spatial_dims} spatial sizes], "
                f"found {list(tensor.shape)}."
            )
        spatial = list(tensor.shape[2:])
        if any(size % self.size_divisor or size == 0 for size in spatial):
            fitting = [max(-(-size // self.size_divisor), 1) * self.size_divisor for size in spatial]
            raise ValueError(
                f"Spatial sizes of {name} must be multiples of {self.size_divisor}, found {spatial}; "
                f"{fitting} would do."
            )
