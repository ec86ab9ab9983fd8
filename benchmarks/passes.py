# SPDX-License-Identifier: Apache-2.0
"""How often the two halves of a network run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from monai_segdiff import SegDiffInferer, SegDiffUNet

__all__ = ["PassMeter", "Passes", "planned_passes", "synchronize"]


class Passes(NamedTuple):
    """Rows (one window, one generation, one step) that went through each half; rows that fill up a batch count.

    Attributes:
        encoder: of the image encoder.
        denoiser: of everything else. Both may be means over images.
    """

    encoder: float
    denoiser: float


class PassMeter:
    """Counts, and on request times, the passes of a network inside this context; not of its compiled form.

    Args:
        network: the network.
        timed: measure the time as well. On a GPU this waits for every call to end, which slows the whole down.

    Attributes:
        rows: rows of the encoder and of the denoiser.
        seconds: time spent in each.

    Example:
        >>> with PassMeter(network) as meter:  # doctest: +SKIP
        ...     inferer(image, network)
        >>> meter.passes  # doctest: +SKIP
        Passes(encoder=9, denoiser=9)
    """

    def __init__(self, network: SegDiffUNet, timed: bool = False) -> None:
        self.rows = [0, 0]
        self.seconds = [0.0, 0.0]
        self._timed = timed
        self._device = next(network.parameters()).device
        # The image encoder is a module; `encode_image` itself is a method, which takes no hooks.
        self._halves: tuple[nn.Module, nn.Module] = (network.image_encoder, network)
        self._started = 0.0
        self._handles: list[Any] = []

    @property
    def passes(self) -> Passes:
        """Passes so far."""
        return Passes(*self.rows)

    def __enter__(self) -> PassMeter:
        for half, module in enumerate(self._halves):
            self._handles.append(
                module.register_forward_pre_hook(lambda _, inputs, half=half: self._start(half, inputs))
            )
            if self._timed:
                self._handles.append(module.register_forward_hook(lambda *_, half=half: self._stop(half)))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _start(self, half: int, inputs: tuple[torch.Tensor, ...]) -> None:
        self.rows[half] += len(inputs[0])
        if self._timed:
            synchronize(self._device)
            self._started = time.perf_counter()

    def _stop(self, half: int) -> None:
        synchronize(self._device)
        self.seconds[half] += time.perf_counter() - self._started


class _Counter(nn.Module):
    """Takes the place of a network, computes nothing, and counts."""

    def __init__(self, network: SegDiffUNet) -> None:
        super().__init__()
        self.spatial_dims = network.spatial_dims
        self.image_channels = network.image_channels
        self.mask_channels = network.mask_channels
        self.size_divisor = network.size_divisor
        self.rows = [0, 0]

    def encode_image(self, image: torch.Tensor) -> torch.Tensor:
        self.rows[0] += len(image)
        return image[:, :1]

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor, image_features: torch.Tensor) -> torch.Tensor:
        self.rows[1] += len(x)
        return torch.zeros_like(x)


def planned_passes(inferer: SegDiffInferer, network: SegDiffUNet, size: Sequence[int]) -> Passes:
    """Count the passes that an inferer would make over an image, by running it with a network that computes nothing.

    Args:
        inferer: must not compile.
        network: the network that it would run.
        size: spatial size of the image.
    """
    counter = _Counter(network)
    device = next(network.parameters()).device
    inferer(torch.zeros(1, network.image_channels, *size, device=device), counter)
    return Passes(*counter.rows)


def synchronize(device: torch.device) -> None:
    """Wait until a device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
