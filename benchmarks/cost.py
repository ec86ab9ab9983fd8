# SPDX-License-Identifier: Apache-2.0
"""Multiply-accumulates of a network, and how many of them a device can do."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from monai_segdiff import SegDiffUNet

from .bundle import Bundle
from .passes import Passes, synchronize

__all__ = ["Macs", "bundle_macs", "multiply_accumulates", "network_macs", "peak_rate"]

MATRIX_SIZES = {"cpu": 2048, "cuda": 8192}
REPEATS = 10


class Macs(NamedTuple):
    """Multiply-accumulates of one row through each half of a network: convolutions, matrix products and attention.

    Attributes:
        encoder: of the image encoder.
        denoiser: of everything else.
    """

    encoder: int
    denoiser: int

    def of(self, passes: Passes) -> float:
        """Return those of many passes."""
        return self.encoder * passes.encoder + self.denoiser * passes.denoiser


def multiply_accumulates(call: Callable[[], object]) -> int:
    """Count the multiply-accumulates of a call."""
    # PyTorch has no count for the fused attention of a CPU and takes it for free; the plain form is counted anywhere.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops() // 2


def network_macs(network: SegDiffUNet, window: Sequence[int]) -> Macs:
    """Count the multiply-accumulates of a network over one window.

    Args:
        network: the network; one without data (on the device ``meta``) costs neither time nor memory.
        window: spatial size of the window, which the network's levels can divide.
    """
    device = next(network.parameters()).device
    image = torch.zeros(1, network.image_channels, *window, device=device)
    mask = torch.zeros(1, network.mask_channels, *window, device=device)
    timestep = torch.zeros(1, dtype=torch.long, device=device)
    with torch.no_grad():
        features = network.encode_image(image)
    return Macs(
        encoder=multiply_accumulates(lambda: network.encode_image(image)),
        denoiser=multiply_accumulates(lambda: network(mask, timestep, image_features=features)),
    )


def bundle_macs(bundle: Bundle, window: int | None = None) -> Macs:
    """Count the multiply-accumulates of a bundle's network over one window, without running it.

    Args:
        bundle: the bundle.
        window: edge of the window in pixels; default: that of the bundle.
    """
    with torch.device("meta"):
        network = bundle.with_overrides({"device": "meta"}).network()
    size, divisor = window or int(bundle.value("window_size")), network.size_divisor
    return network_macs(network, [-(-size // divisor) * divisor] * network.spatial_dims)


def peak_rate(device: torch.device, size: int | None = None) -> float:
    """Measure how many multiply-accumulates a second a device reaches in one large matrix product.

    Args:
        device: a GPU is measured in bfloat16 where it has it, everything else in float32.
        size: rows and columns of the matrices.
    """
    on_gpu = device.type == "cuda"
    half = on_gpu and torch.cuda.is_bf16_supported(including_emulation=False)
    size = size or MATRIX_SIZES["cuda" if on_gpu else "cpu"]
    a, b = (torch.randn(size, size, device=device).to(torch.bfloat16 if half else torch.float32) for _ in range(2))
    seconds = []
    for _ in range(REPEATS):
        synchronize(device)
        start = time.perf_counter()
        torch.mm(a, b)
        synchronize(device)
        seconds.append(time.perf_counter() - start)
    # The best one: what else the machine does can only take away from the peak.
    return size**3 / min(seconds)
