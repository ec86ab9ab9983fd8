# SPDX-License-Identifier: Apache-2.0
"""Networks small enough to know what an inferer must make of them."""

from __future__ import annotations

from typing import Any

import torch
from monai.networks.nets import UNet
from monai.networks.utils import one_hot
from torch import nn

from monai_segdiff import (
    BaseSegmentor,
    CategoricalScheduler,
    MaskPriorInferer,
    MaskPriorUNet,
    RespacedDDIMScheduler,
    RespacedDDPMScheduler,
    SegDiffInferer,
    SegDiffUNet,
)


def tiny_network(spatial_dims: int = 2, **changes: Any) -> SegDiffUNet:
    torch.manual_seed(0)
    arguments = {"image_channels": 3, "mask_channels": 1, "channels": (8, 16), "attention_levels": (False, True)}
    arguments |= {"num_res_blocks": 1, "num_rrdb_blocks": 1, "rrdb_channels": 4, "rrdb_growth_channels": 2}
    network = SegDiffUNet(spatial_dims, norm_num_groups=4, **(arguments | changes))  # type: ignore[arg-type]
    return _without_zeros(network).eval()


def tiny_mask_prior(spatial_dims: int = 2, num_classes: int = 3, **changes: Any) -> MaskPriorUNet:
    torch.manual_seed(0)
    segmentor = UNet(spatial_dims, 1, num_classes, channels=(4, 8), strides=(2,))
    base = BaseSegmentor(segmentor, spatial_dims, 1, num_classes, size_divisor=2, probe_size=8)
    arguments = {"channels": (4, 8), "attention_levels": (False, False), "num_res_blocks": 1, "num_head_channels": 4}
    arguments |= {"condition_channels": 4, "embedding_channels": 4, "norm_num_groups": 2}
    network = MaskPriorUNet(base, **(arguments | changes))  # type: ignore[arg-type]
    return _without_zeros(network).eval()


def _without_zeros(network: Any) -> Any:
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return network


def inferer(**changes: Any) -> SegDiffInferer:
    scheduler = RespacedDDPMScheduler(100, prediction_type="sample", clip_sample=True)
    return SegDiffInferer(**({"scheduler": scheduler, "num_inference_steps": 3, "num_generations": 2} | changes))


def one_step_inferer(**changes: Any) -> SegDiffInferer:
    """The network's output for pure noise is the mask."""
    scheduler = RespacedDDIMScheduler(100, prediction_type="sample")
    return SegDiffInferer(**({"scheduler": scheduler, "num_inference_steps": 1} | changes))


def prior_inferer(**changes: Any) -> MaskPriorInferer:
    arguments = {"scheduler": CategoricalScheduler(3), "num_inference_steps": 3, "num_generations": 2}
    return MaskPriorInferer(**(arguments | changes))  # type: ignore[arg-type]


def image_of(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class StandIn(nn.Module):
    """What the inferer asks of a network; the image features are the image. Notes its calls."""

    def __init__(self, channels: int = 1, size_divisor: int = 4, spatial_dims: int = 2) -> None:
        super().__init__()
        self.spatial_dims, self.size_divisor = spatial_dims, size_divisor
        self.image_channels = self.mask_channels = channels
        self.encoded = 0
        self.rows: list[int] = []
        self.timesteps: list[list[int]] = []
        self.types: set[type] = set()

    def encode_image(self, image: torch.Tensor) -> torch.Tensor:
        self.types.add(type(image))
        self.encoded += len(image)
        return image

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor, image_features: torch.Tensor) -> torch.Tensor:
        assert x.shape == image_features.shape
        self.types |= {type(x), type(timesteps), type(image_features)}
        self.rows.append(len(x))
        self.timesteps.append(timesteps.tolist())
        return self.mask(x, image_features, timesteps)

    def mask(self, x: torch.Tensor, image: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError


class Oracle(StandIn):
    """Knows the mask: it is the image."""

    def mask(self, x: torch.Tensor, image: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        return image


class Pointwise(StandIn):
    """Each pixel depends on that pixel alone: foreground is the likelier the brighter it is. Soft or saturated."""

    def __init__(self, channels: int = 1, soft: bool = True, **arguments: Any) -> None:
        super().__init__(channels, **arguments)
        self.soft = soft

    def mask(self, x: torch.Tensor, image: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        logit = x * (0.5 + timesteps / 200) + image
        return torch.tanh(0.7 * logit) if self.soft else torch.where(logit > 0, 1.0, -1.0)


class LabelStandIn(StandIn):
    """What the inferer of a mask prior asks of a network; base logits are the image, one channel for each class.

    Each pixel depends on that pixel alone: its class is the likelier the more it is that of the noisy label.
    """

    latent_stride = 1

    def __init__(self, channels: int = 3, **arguments: Any) -> None:
        super().__init__(channels, **arguments)
        self.num_classes = channels
        self.num_states = channels + 1

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor, image_features: torch.Tensor) -> torch.Tensor:
        assert (x.dtype, x.shape[2:], x.shape[1]) == (torch.int64, image_features.shape[2:], 1)
        self.types |= {type(x), type(timesteps), type(image_features)}
        self.rows.append(len(x))
        self.timesteps.append(timesteps.tolist())
        return self.mask(x, image_features, timesteps)

    def mask(self, x: torch.Tensor, image: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        return image + (2 - timesteps / 20) * one_hot(x, self.num_classes + 1)[:, :-1]

    def base_logits(self, image_features: torch.Tensor) -> torch.Tensor:
        return image_features

    def to_latent(self, labels: torch.Tensor) -> torch.Tensor:
        return labels

    def upsample(self, logits: torch.Tensor) -> torch.Tensor:
        return logits
