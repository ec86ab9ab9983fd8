# SPDX-License-Identifier: Apache-2.0
"""Image features that outlive one call of an inferer."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable
from typing import Any

import torch
from torch import nn

from monai_segdiff import SegDiffUNet

__all__ = ["RememberedFeatures"]


class RememberedFeatures(nn.Module):
    """A network that encodes the same window once, however often and by however many inferers it is asked to.

    An inferer forgets the features of a window when it is done with it. Where an image is sampled again, with other
    steps, the features are the same, since they do not depend on time or noise. Here they are found by what the window
    holds (a digest of its bytes, shape and type), its device and the precision of the surrounding autocast; the
    features are those of the first call, so that every result has the same bits as without.

    For inference: what is remembered has no gradient, and does not follow when the weights change. Compiled code cannot
    read bytes and encodes anew.

    Args:
        network: the network, kept as :attr:`network`. Its mode (training or evaluation) is taken over.

    Example:
        >>> remembering = RememberedFeatures(network)  # doctest: +SKIP
        >>> for inferer in inferers:  # doctest: +SKIP
        ...     inferer(image, remembering)
        >>> remembering.forget()  # doctest: +SKIP
    """

    def __init__(self, network: SegDiffUNet) -> None:
        super().__init__()
        self.network = network
        self.spatial_dims = network.spatial_dims
        self.image_channels = network.image_channels
        self.mask_channels = network.mask_channels
        self.size_divisor = network.size_divisor
        self.train(network.training)
        self._features: dict[Hashable, torch.Tensor] = {}

    def encode_image(self, image: torch.Tensor) -> torch.Tensor:
        """Return the image features of ``image``, computed at the first call; not to be changed in place."""
        if torch.compiler.is_compiling():
            return self.network.encode_image(image)
        key = _key(image)
        if key not in self._features:
            self._features[key] = self.network.encode_image(image)
        return self._features[key]

    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return what the network returns; an image given as ``context`` is encoded anew."""
        return self.network(*args, **kwargs)

    def forget(self) -> None:
        """Drop all features, and with them their memory."""
        self._features.clear()


def _key(image: torch.Tensor) -> Hashable:
    content = image.detach().cpu().contiguous()
    digest = hashlib.sha256(content.view(torch.uint8).numpy().tobytes()).digest()
    kind = image.device.type
    precision = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    return digest, tuple(image.shape), image.dtype, image.device, precision
