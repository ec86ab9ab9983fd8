# SPDX-License-Identifier: Apache-2.0
"""A trained segmentor as the frozen first stage of DDPS."""

from __future__ import annotations

import copy
import threading
from collections.abc import Sequence

import torch
from monai.networks.nets import UNet, VNet
from monai.utils import ensure_tuple_rep
from torch import nn
from torch.nn.modules.conv import _ConvNd

__all__ = ["BaseSegmentor"]

# Where the first convolution to class channels is followed by others on them: where the last part begins.
LAST_PART = {UNet: "model.2.", VNet: "out_tr."}


class BaseSegmentor(nn.Module):
    """Any trained segmentor, frozen, that delivers its features beside its own prediction.

    The features are what enters the classifier: the last convolution to class channels. MONAI's ``UNet`` and ``VNet``
    go on with convolutions of the class channels; there it is the first one in their last part. The module stays in
    evaluation mode whatever is asked for, and its parameters get no gradients; the released DDPS code freezes the
    parameters only, so that batch statistics keep moving.

    Args:
        network: module that maps ``[B, image_channels, *spatial]`` to logits ``[B, num_classes, *spatial]``, two or
            more. A copy is kept, so that the network given can be trained further.
        spatial_dims: number of spatial dimensions, 2 or 3.
        image_channels: channels of the image.
        num_classes: K, background included.
        feature_layer: dotted name of a module of ``network``, whose input is the feature map. Default: found by a pass
            over zeros. ``""``: the network is a black box without features.
        size_divisor: what the spatial sizes of ``network``'s input must be multiples of.
        probe_size: spatial size of the zeros, for all axes or each; rounded up to multiples of ``size_divisor``, at
            least two of them, since normalisation needs more than one value.

    Raises:
        TypeError: the network returns something else than one tensor.
        ValueError: an argument out of range, logits of another shape than declared, no such layer, none found, or one
            whose input is no feature map.

    Example:
        >>> from monai.networks.nets import BasicUNet
        >>> base = BaseSegmentor(BasicUNet(2, 1, 3, features=(8, 8, 8, 8, 8, 8)), 2, 1, 3, size_divisor=16)
        >>> base.feature_layer, base.feature_channels
        ('final_conv', 8)
        >>> features, logits = base(torch.zeros(1, 1, 32, 32))
        >>> features.shape, logits.shape
        (torch.Size([1, 8, 32, 32]), torch.Size([1, 3, 32, 32]))
    """

    def __init__(
        self,
        network: nn.Module,
        spatial_dims: int,
        image_channels: int,
        num_classes: int,
        feature_layer: str | None = None,
        size_divisor: int = 1,
        probe_size: Sequence[int] | int = 64,
    ) -> None:
        super().__init__()
        if spatial_dims not in (2, 3):
            raise ValueError(f"spatial_dims must be 2 or 3, found {spatial_dims}.")
        for name, value, least in (("num_classes", num_classes, 2), ("size_divisor", size_divisor, 1)):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, found {value}.")
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.training = False
        self.spatial_dims = spatial_dims
        self.image_channels = image_channels
        self.num_classes = num_classes
        self.size_divisor = size_divisor
        edges = ensure_tuple_rep(probe_size, spatial_dims)
        size = [max(-(-edge // size_divisor), 2) * size_divisor for edge in edges]
        parameter = next(network.parameters(), torch.empty(0))
        probe = torch.zeros(1, image_channels, *size, device=parameter.device)
        self.feature_layer = self._find_layer(probe) if feature_layer is None else feature_layer
        if self.feature_layer and self.feature_layer not in dict(network.named_modules()):
            raise ValueError(
                f"feature_layer {self.feature_layer!r} is not a module of {type(network).__name__}; "
                f"its modules are {[name for name, _ in network.named_children()]} and theirs."
            )
        features, _ = self(probe)
        if features is not None and getattr(features, "ndim", 0) != spatial_dims + 2:
            found = list(features.shape) if isinstance(features, torch.Tensor) else type(features).__name__
            raise ValueError(
                f"The input of feature_layer {self.feature_layer!r} must have shape "
                f"[B, C, {spatial_dims} spatial sizes], found {found}."
            )
        self.feature_channels = 0 if features is None else features.shape[1]

    def train(self, mode: bool = True) -> BaseSegmentor:
        """Stay in evaluation mode: a frozen network has neither dropout nor batch statistics."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor]:
        """Segment images.

        Args:
            image: ``[B, image_channels, *spatial]``.

        Returns:
            The features ``[B, feature_channels, ...]`` at the resolution that the layer has (None of a black box), and
            the logits ``[B, num_classes, *spatial]``.
        """
        if not self.feature_layer:
            return None, self._logits(image)
        seen: list[torch.Tensor] = []
        thread = threading.get_ident()

        def keep(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            if threading.get_ident() == thread:  # another thread may run the same network now
                seen.extend(inputs[:1])

        handle = self.network.get_submodule(self.feature_layer).register_forward_pre_hook(keep)
        try:
            logits = self._logits(image)
        finally:
            handle.remove()
        if not seen:
            raise ValueError(f"feature_layer {self.feature_layer!r} gets no input in the network's prediction.")
        return seen[-1], logits

    def _logits(self, image: torch.Tensor) -> torch.Tensor:
        logits = self.network(image)
        if not isinstance(logits, torch.Tensor):
            raise TypeError(
                f"Expected {type(self.network).__name__} to return one tensor of logits, found "
                f"{type(logits).__name__}; wrap it in a module that returns the final ones."
            )
        expected = (image.shape[0], self.num_classes, *image.shape[2:])
        if logits.shape != expected:
            raise ValueError(
                f"Expected logits of shape {list(expected)} from {type(self.network).__name__}, "
                f"found {list(logits.shape)}."
            )
        return logits

    @torch.no_grad()
    def _find_layer(self, probe: torch.Tensor) -> str:
        """Return the name of the last convolution to class channels, in the order of execution."""
        executed: list[str] = []
        handles = [
            module.register_forward_pre_hook(lambda module, inputs, name=name: executed.append(name))
            for name, module in self.network.named_modules()
            if isinstance(module, _ConvNd) and module.out_channels == self.num_classes
        ]
        try:
            self._logits(probe)
        finally:
            for handle in handles:
                handle.remove()
        if not executed:
            raise ValueError(
                f"Found no convolution to {self.num_classes} channels in {type(self.network).__name__}: name the layer "
                "whose input is the feature map as feature_layer, or give feature_layer='' to do without features."
            )
        for kind, last_part in LAST_PART.items():
            if isinstance(self.network, kind):
                return next(name for name in executed if name.startswith(last_part))
        return executed[-1]
