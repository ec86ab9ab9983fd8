# SPDX-License-Identifier: Apache-2.0
"""The denoising network of DDPS."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from monai.networks.layers.factories import Conv, Dropout
from monai.networks.nets import DiffusionModelUNet
from monai.utils import StrEnum, look_up_option
from torch import nn
from torch.nn import functional as F

from ..blocks.space_to_depth import depth_to_space, space_to_depth
from ..schedulers.categorical import CategoricalScheduler
from .base_segmentor import BaseSegmentor

__all__ = ["MaskPriorUNet", "check_scheduler"]


class Condition(StrEnum):
    """What the denoiser knows of the image."""

    FEATURES = "features"
    PREDICTION = "prediction"
    BOTH = "both"


class MaskPriorUNet(nn.Module):
    """Denoiser of a label map, conditioned on an existing segmentor: class logits of the clean map (arXiv 2306.01721).

    The noisy labels are embedded, put beside a projection of the segmentor's features, and MONAI's
    ``DiffusionModelUNet`` predicts the logits of the clean labels. What depends on the image alone
    (:meth:`encode_image`) is computed once and reused for all steps and generations.

    Differences from the published network: time is added, not a scale and shift; full attention, where there is any,
    instead of linear; the projection of the features is new, since segmentors differ in their width; the segmentor
    stays in evaluation mode; ``patch_size``.

    Args:
        base: the frozen segmentor.
        channels: width of each level of the U-Net, from the highest resolution down; multiples of ``norm_num_groups``.
        attention_levels: for each level, whether its residual blocks are followed by self-attention.
        num_res_blocks: residual blocks in each level.
        num_head_channels: channels of an attention head (published: 32); divides the width of every level with
            attention, and of the last, whose middle block has it always.
        condition: ``"features"`` of the segmentor (published), its ``"prediction"``, which is the image and its class
            probabilities and serves a black box as well, or ``"both"``.
        condition_channels: width that the condition is projected to.
        embedding_channels: width of the embedding of a label (published: 16).
        embedding_trainable: train the embedding. Published: it keeps its random initial values.
        num_states: rows of the embedding, ``CategoricalScheduler.num_states``: one more than the classes with an
            absorbing kernel. Default: the number of classes.
        latent_stride: the label maps inside the diffusion are smaller by this factor, made by nearest neighbours
            (published: 4). The logits are then interpolated. Small structures do not survive a large stride.
        patch_size: fold blocks of this many labels into channels before the first convolution and unfold the logits
            after the last: costs as little as a stride, and labels and logits keep their resolution. Features of the
            base that are larger than what remains are averaged, image and class probabilities are folded.
        dropout: probability before the classifier, in training.
        norm_num_groups: groups of the group normalisation.

    Raises:
        ValueError: an argument out of range; the message names it.

    Example:
        >>> from monai.networks.nets import BasicUNet
        >>> base = BaseSegmentor(BasicUNet(2, 1, 3, features=(8, 8, 8, 8, 8, 8)), 2, 1, 3, size_divisor=16)
        >>> net = MaskPriorUNet(base, (8, 16), (False, False), num_head_channels=8, norm_num_groups=8)
        >>> image, noisy_labels = torch.zeros(1, 1, 32, 32), torch.zeros(1, 1, 32, 32, dtype=torch.long)
        >>> net(noisy_labels, torch.tensor([7]), context=image).shape
        torch.Size([1, 3, 32, 32])
    """

    def __init__(
        self,
        base: BaseSegmentor,
        channels: Sequence[int],
        attention_levels: Sequence[bool],
        num_res_blocks: int | Sequence[int] = 2,
        num_head_channels: int = 32,
        condition: str = Condition.FEATURES,
        condition_channels: int = 64,
        embedding_channels: int = 16,
        embedding_trainable: bool = False,
        num_states: int | None = None,
        latent_stride: int = 1,
        patch_size: int = 1,
        dropout: float = 0.1,
        norm_num_groups: int = 32,
    ) -> None:
        super().__init__()
        for name, value in (("latent_stride", latent_stride), ("patch_size", patch_size)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, found {value}.")
        self.condition = look_up_option(condition, Condition)
        if self.condition != Condition.PREDICTION and not base.feature_channels:
            raise ValueError(f"condition={condition!r} needs the features of the base, which has none; 'prediction'?")
        if num_states is not None and num_states < base.num_classes:
            raise ValueError(f"num_states must be at least the {base.num_classes} classes, found {num_states}.")
        bad_widths = [width for width in channels if width % norm_num_groups]
        if bad_widths:
            raise ValueError(f"channels must be multiples of norm_num_groups={norm_num_groups}, found {bad_widths}.")
        # Levels without attention do not use theirs, but MONAI checks it.
        attends = [*attention_levels[:-1], True]
        heads = [num_head_channels if used else width for used, width in zip(attends, channels, strict=True)]
        bad_heads = [width for width, head in zip(channels, heads, strict=True) if width % head]
        if bad_heads:
            raise ValueError(f"num_head_channels={num_head_channels} does not divide {bad_heads} of the channels.")
        self.base = base
        self.spatial_dims, self.image_channels = base.spatial_dims, base.image_channels
        self.num_classes = self.mask_channels = base.num_classes
        self.latent_stride = latent_stride
        self.patch_size = patch_size
        self.feature_stride = latent_stride * patch_size
        self.size_divisor = math.lcm(base.size_divisor, self.feature_stride * 2 ** (len(channels) - 1))
        self.condition_channels = condition_channels

        conv = Conv[Conv.CONV, self.spatial_dims]
        blocks = self.feature_stride**self.spatial_dims
        width = base.feature_channels if self.condition != Condition.PREDICTION else 0
        if self.condition != Condition.FEATURES:
            width += blocks * (self.image_channels + self.num_classes)
        self.base_channels = width
        self.projection = conv(width, condition_channels, 1)
        self.num_states = num_states or self.num_classes
        self.embedding = nn.Embedding(self.num_states, embedding_channels)
        self.embedding.weight.requires_grad_(embedding_trainable)
        folded = patch_size**self.spatial_dims
        self.unet = DiffusionModelUNet(
            spatial_dims=self.spatial_dims,
            in_channels=condition_channels + embedding_channels * folded,
            out_channels=channels[0],
            channels=channels,
            attention_levels=attention_levels,
            num_res_blocks=num_res_blocks,
            num_head_channels=heads,
            norm_num_groups=norm_num_groups,
            use_flash_attention=True,
        )
        self.classifier = nn.Sequential(
            Dropout[Dropout.DROPOUT, self.spatial_dims](dropout), conv(channels[0], self.num_classes * folded, 1)
        )

    def observe(self, image: torch.Tensor) -> torch.Tensor:
        """Run the frozen segmentor.

        Args:
            image: ``[B, image_channels, *spatial]``.

        Returns:
            All that the denoiser may use of it, without gradient: ``[B, base_channels + K * feature_stride ** n,
            *(spatial / feature_stride)]``, the unprojected condition and the base's logits, folded. One tensor, so that
            it is stored and batched as one.

        Raises:
            ValueError: wrong number of dimensions or channels, or a size that the levels cannot divide.
        """
        self._check_image(image)
        features, logits = self.base(image)
        latent = [size // self.feature_stride for size in image.shape[2:]]
        parts = []
        if self.condition != Condition.PREDICTION:
            assert features is not None
            parts.append(_resize(features, latent))
        if self.condition != Condition.FEATURES:
            seen = torch.cat([image, logits.softmax(dim=1)], dim=1)
            parts.append(space_to_depth(seen, self.feature_stride))
        return torch.cat([*parts, space_to_depth(logits, self.feature_stride)], dim=1)

    def encode_image(self, image: torch.Tensor) -> torch.Tensor:
        """Compute what holds for all timesteps and generations; see :meth:`observe` for the errors.

        Args:
            image: ``[B, image_channels, *spatial]``.

        Returns:
            ``[B, condition_channels + K * feature_stride ** n, *(spatial / feature_stride)]``: the condition, and the
            base's logits, folded.
        """
        return self._project(self.observe(image))

    def forward(
        self,
        x: torch.Tensor,
        timesteps: torch.Tensor,
        context: torch.Tensor | None = None,
        image_features: torch.Tensor | None = None,
        observation: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Predict the logits of the clean labels.

        Args:
            x: noisy labels, int64 ``[B, 1, *(spatial / latent_stride)]`` in 0..num_states - 1.
            timesteps: noise levels of shape ``(1,)`` or ``(B,)``, 0 the cleanest.
            context: the image ``[B, image_channels, *spatial]``.
            image_features: result of :meth:`encode_image`, in place of ``context``.
            observation: result of :meth:`observe`, in place of ``context``.

        Returns:
            ``[B, K, *(spatial / latent_stride)]``; :meth:`upsample` gives them the size of the image.

        Raises:
            ValueError: not exactly one of ``context``, ``image_features`` and ``observation``, or labels whose shape
                does not fit.
        """
        if sum(given is not None for given in (context, image_features, observation)) != 1:
            raise ValueError("Give exactly one of the image as `context`, `image_features` and `observation`.")
        if context is not None:
            observation = self.observe(context)
        if observation is not None:
            image_features = self._project(observation)
        assert image_features is not None
        expected = [1, *(size * self.patch_size for size in image_features.shape[2:])]
        if list(x.shape[1:]) != expected:
            raise ValueError(f"x must have shape {['B', *expected]}, found {list(x.shape)}.")
        embedded = space_to_depth(self.embedding(x[:, 0]).movedim(-1, 1), self.patch_size)
        condition = image_features[:, : self.condition_channels]
        output = self.unet(torch.cat([condition, embedded], dim=1), timesteps)
        return depth_to_space(self.classifier(output), self.patch_size)

    def base_logits(self, image_features: torch.Tensor) -> torch.Tensor:
        """Return the base's own logits ``[B, K, *spatial]``, from the result of :meth:`encode_image`."""
        return depth_to_space(image_features[:, self.condition_channels :], self.feature_stride)

    def observed_logits(self, observation: torch.Tensor) -> torch.Tensor:
        """Return the base's own logits ``[B, K, *spatial]``, from the result of :meth:`observe`."""
        return depth_to_space(observation[:, self.base_channels :], self.feature_stride)

    def to_latent(self, labels: torch.Tensor) -> torch.Tensor:
        """Return labels ``[B, 1, *spatial]`` at the size inside the diffusion, by nearest neighbours."""
        if self.latent_stride == 1:
            return labels
        size = [size // self.latent_stride for size in labels.shape[2:]]
        return F.interpolate(labels.float(), size, mode="nearest-exact").long()

    def upsample(self, logits: torch.Tensor) -> torch.Tensor:
        """Return logits of :meth:`forward` at the size of the image, interpolated linearly."""
        return _resize(logits, [size * self.latent_stride for size in logits.shape[2:]])

    def _project(self, observation: torch.Tensor) -> torch.Tensor:
        condition = self.projection(observation[:, : self.base_channels])
        return torch.cat([condition, observation[:, self.base_channels :]], dim=1)

    def _check_image(self, image: torch.Tensor) -> None:
        if image.ndim != self.spatial_dims + 2 or image.shape[1] != self.image_channels:
            raise ValueError(
                f"image must have shape [B, {self.image_channels}, {self.spatial_dims} spatial sizes], "
                f"found {list(image.shape)}."
            )
        spatial = list(image.shape[2:])
        if any(size % self.size_divisor or size == 0 for size in spatial):
            fitting = [max(-(-size // self.size_divisor), 1) * self.size_divisor for size in spatial]
            raise ValueError(
                f"Spatial sizes of image must be multiples of {self.size_divisor}, found {spatial}; {fitting} would do."
            )


def _resize(x: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Resize by averaging where it gets smaller, and linearly where it gets larger."""
    if list(x.shape[2:]) == list(size):
        return x
    if all(new <= old for new, old in zip(size, x.shape[2:], strict=True)):
        return F.interpolate(x, size, mode="area")
    return F.interpolate(x, size, mode="bilinear" if x.ndim == 4 else "trilinear", align_corners=False)


def check_scheduler(scheduler: CategoricalScheduler, network: MaskPriorUNet) -> None:
    """Raise a ValueError unless the network has the scheduler's classes and embeds all of its states."""
    if network.num_classes != scheduler.num_classes:
        raise ValueError(
            f"network has {network.num_classes} classes, expected the scheduler's {scheduler.num_classes}."
        )
    if network.num_states < scheduler.num_states:
        raise ValueError(
            f"network embeds {network.num_states} states, expected the scheduler's "
            f"{scheduler.num_states}: give num_states."
        )
