# SPDX-License-Identifier: Apache-2.0
"""The denoising network of SegDiff."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from monai.networks.layers.factories import Conv
from torch import nn

from ..blocks.space_to_depth import depth_to_space, space_to_depth
from .conditioned_unet import ConditionedUNet
from .rrdb_encoder import RRDBEncoder

__all__ = ["SegDiffUNet"]

PUBLISHED_NUM_HEADS = 4
SUM, CONCAT_FEATURES, CONCAT_IMAGE, ADD_AFTER_DOWN = "sum", "concat_features", "concat_image", "add_after_down_"


class SegDiffUNet(nn.Module):
    """Denoiser of a mask, conditioned on an image: ``D(E(F(x_t) + G(I), t), t)`` (eq. 17 of arXiv 2112.00390).

    The mask encoder F is one convolution, the image encoder G a stack of RRDBs, E and D are MONAI's
    ``DiffusionModelUNet``. The sum is also the first skip connection, and the image enters nowhere else, so its
    features can be computed once (:meth:`encode_image`) and reused for all steps and generations. That holds for the
    variants of the paper's ablation as well, which ``conditioning`` and ``image_encoder`` select:

    ====================== ======= ==================================================================================
    ``conditioning``       variant what the U-Net sees
    ====================== ======= ==================================================================================
    ``"sum"``              full    ``F(x_t) + G(I)``, the published method
    ``"concat_features"``  1       ``[F(x_t), G(I)]``: its first block and its first skip are twice as wide
    ``"sum"``              2       the same with another ``image_encoder``, e.g. :class:`~monai_segdiff.DenseEncoder`
    ``"concat_image"``     3       one convolution of ``[x_t, I]``, no image encoder
    ``"add_after_down_k"`` 4, 5, 6 ``F(x_t)``; what G(I) becomes by k convolutions of stride 2 is added after the k-th
                                   downsampling (k = 1, 3, 5 in the paper), and to the skip that starts there
    ====================== ======= ==================================================================================

    The convolution of a concatenation is the sum of two convolutions, so ``"concat_image"`` is computed as a sum whose
    image encoder is the image's part of that convolution: equal weights and outputs, and the image is still convolved
    once.

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
            ``rrdb`` arguments are then unused. Not with ``"concat_image"``.
        conditioning: how the image features enter, see above.
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
        entry_level = _entry_level(conditioning, len(channels))
        if conditioning == CONCAT_IMAGE and image_encoder is not None:
            raise ValueError(
                f"conditioning {CONCAT_IMAGE!r} has no image_encoder, found {type(image_encoder).__name__}."
            )
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
        self.conditioning = conditioning
        self.patch_size = patch_size
        self.size_divisor = patch_size * 2 ** (len(channels) - 1)
        self.feature_stride = patch_size * 2**entry_level
        folded = patch_size**spatial_dims

        self.image_encoder: nn.Module
        if image_encoder is not None:
            self.image_encoder = image_encoder
        elif conditioning != CONCAT_IMAGE:
            self.image_encoder = RRDBEncoder(
                spatial_dims,
                in_channels=image_channels * folded,
                out_channels=channels[0],
                num_blocks=num_rrdb_blocks,
                channels=rrdb_channels,
                growth_channels=rrdb_growth_channels,
            )
        self.unet = ConditionedUNet(
            entry_level=entry_level,
            entry_channels=2 * channels[0] if conditioning == CONCAT_FEATURES else None,
            dropout=dropout,
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
        # The U-Net's first convolution is the mask encoder, taken out so that the image features can meet its result.
        self.mask_encoder: nn.Module = self.unet.conv_in
        self.unet.conv_in = nn.Identity()  # type: ignore[assignment]

        if conditioning == CONCAT_IMAGE:
            self.image_encoder = self._split_first_convolution(image_channels * folded)
        # After k downsamplings the width is still that of level k - 1.
        widths = [channels[0]] * entry_level + [channels[max(entry_level - 1, 0)]]
        conv = Conv[Conv.CONV, spatial_dims]
        self.image_projection = nn.Sequential(
            *(conv(widths[i], widths[i + 1], 3, stride=2, padding=1) for i in range(entry_level))
        )

    def encode_image(self, image: torch.Tensor) -> torch.Tensor:
        """Compute the image features, which hold for all timesteps and generations.

        Args:
            image: ``[B, image_channels, *spatial]``.

        Returns:
            ``[B, width, *(spatial / feature_stride)]``: the width of the first level and ``patch_size``, or, after k
            downsamplings, the width of the k-th level and ``patch_size * 2 ** k``.

        Raises:
            ValueError: wrong number of dimensions or channels, or a size that the levels cannot divide.
        """
        self._check("image", image, self.image_channels)
        return self.image_projection(self.image_encoder(space_to_depth(image, self.patch_size)))

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
        hidden = self.mask_encoder(space_to_depth(x, self.patch_size))
        if self.conditioning == CONCAT_FEATURES:
            output = self.unet(torch.cat([hidden, image_features], dim=1), timesteps)
        else:
            output = self.unet(hidden, timesteps, image_features)
        return depth_to_space(output, self.patch_size)

    def _split_first_convolution(self, image_channels: int) -> nn.Module:
        """Start mask encoder and image encoder as the two parts of one convolution of the concatenation."""
        mask_conv = self.mask_encoder.get_submodule("conv")
        assert isinstance(mask_conv, (nn.Conv2d, nn.Conv3d))
        mask_channels, width = mask_conv.in_channels, mask_conv.out_channels
        conv = Conv[Conv.CONV, self.spatial_dims]
        whole = conv(mask_channels + image_channels, width, 3, padding=1)
        image_conv = conv(image_channels, width, 3, padding=1, bias=False)
        parts = whole.weight.detach().split([mask_channels, image_channels], dim=1)
        mask_conv.weight, image_conv.weight = (nn.Parameter(part.clone()) for part in parts)
        mask_conv.bias = whole.bias
        return image_conv

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


def _entry_level(conditioning: str, num_levels: int) -> int:
    """Return after how many downsamplings the image features are added."""
    if conditioning in (SUM, CONCAT_FEATURES, CONCAT_IMAGE):
        return 0
    match = re.fullmatch(rf"{ADD_AFTER_DOWN}(\d+)", conditioning)
    if match and 1 <= int(match[1]) < num_levels:
        return int(match[1])
    last = f" or '{ADD_AFTER_DOWN}1' to '{ADD_AFTER_DOWN}{num_levels - 1}'" if num_levels > 1 else ""
    raise ValueError(
        f"conditioning must be {SUM!r}, {CONCAT_FEATURES!r}, {CONCAT_IMAGE!r}{last} with {num_levels} levels, "
        f"found {conditioning!r}."
    )
