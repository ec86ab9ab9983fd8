# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.bundle import Bundle
from benchmarks.cost import Macs, bundle_macs, multiply_accumulates, network_macs, peak_rate
from benchmarks.passes import Passes


class TwoConvolutions(nn.Module):
    """A network with the interface of SegDiffUNet: 3 x 3 from 3 to 5 channels, and 1 x 1 from 1 to 5, and back."""

    image_channels, mask_channels = 3, 1

    def __init__(self) -> None:
        super().__init__()
        self.image_encoder = nn.Conv2d(3, 5, 3, padding=1)
        self.mask_encoder, self.out = nn.Conv2d(1, 5, 1), nn.Conv2d(5, 1, 1)

    def encode_image(self, image: torch.Tensor) -> torch.Tensor:
        return self.image_encoder(image)

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor, image_features: torch.Tensor) -> torch.Tensor:
        return self.out(self.mask_encoder(x) + image_features)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_convolutions(device: str) -> None:
    network = TwoConvolutions().to(device)
    # Every output value of a convolution takes (input channels x kernel area) of them.
    expected = Macs(encoder=16 * 8 * 5 * 27, denoiser=16 * 8 * (5 * 1 + 1 * 5))
    assert network_macs(network, (16, 8)) == expected  # type: ignore[arg-type]
    assert expected.of(Passes(encoder=2, denoiser=10)) == 16 * 8 * (2 * 135 + 10 * 10)


def test_attention_counts_on_the_cpu() -> None:
    query = torch.zeros(2, 4, 10, 16)
    expected = 2 * 4 * (10 * 10 * 16 + 10 * 10 * 16)
    assert multiply_accumulates(lambda: F.scaled_dot_product_attention(query, query, query)) == expected


def test_nothing_counts_nothing() -> None:
    assert multiply_accumulates(lambda: torch.zeros(3).sum()) == 0


def test_the_published_network() -> None:
    # Measured by another implementation: 575.1 and 278.3 thousand million for a window of 256 pixels.
    macs = bundle_macs(Bundle({"device": "cpu"}, extra_configs=("paper",)))
    assert macs.encoder / 1e9 == pytest.approx(575.1, abs=0.05)
    assert macs.denoiser / 1e9 == pytest.approx(278.3, abs=0.6)


def test_a_bundle_is_counted_for_its_windows(bundle: Bundle) -> None:
    macs = bundle_macs(bundle)
    assert macs == network_macs(bundle.network(), (64, 64))
    # 63 is rounded up to what the network can divide.
    assert bundle_macs(bundle.with_overrides({"window_size": 63})) == macs
    assert bundle_macs(bundle.with_overrides({"window_size": 128})).encoder == 4 * macs.encoder
    assert bundle_macs(bundle, 32).encoder == macs.encoder / 4


def test_peak_rate_is_of_a_matrix_product(monkeypatch: pytest.MonkeyPatch) -> None:
    products = []
    product = torch.mm

    def record(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        products.append((a.dtype, *a.shape, *b.shape))
        return product(a, b)

    monkeypatch.setattr(torch, "mm", record)
    assert peak_rate(torch.device("cpu"), size=64) > 0
    assert set(products) == {(torch.float32, 64, 64, 64, 64)}
