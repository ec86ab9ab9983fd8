# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.bundle import Bundle
from benchmarks.passes import PassMeter
from benchmarks.remembered_features import RememberedFeatures
from monai_segdiff import SegDiffInferer

SAMPLINGS: list[tuple[dict, Callable]] = [
    ({"num_inference_steps": 1}, SegDiffInferer.generations),
    ({"num_inference_steps": 2, "num_generations": 2, "max_batch": 3}, SegDiffInferer.generations),
    ({"num_inference_steps": 2, "window_mode": "joint"}, SegDiffInferer.generations),
    ({"num_inference_steps": 2}, SegDiffInferer.trajectory),
]


class Recorder(nn.Module):
    """Stands in for a network, and counts."""

    spatial_dims, image_channels, mask_channels, size_divisor = 3, 4, 5, 6

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def encode_image(self, image: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return image * 2

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor, image_features: torch.Tensor) -> torch.Tensor:
        return x + timesteps + image_features


def test_same_bits_and_one_encoding_for_all_samplings(bundle: Bundle, dataset: Path, weights: Path) -> None:
    network = bundle.network(weights)
    remembering = RememberedFeatures(network)
    image = bundle.items(dataset, num_images=1)[0].image[None]
    with PassMeter(network) as meter:
        found = [sample(bundle.inferer(**changes), image, remembering) for changes, sample in SAMPLINGS]
    # 4 windows of 64 with 25 % overlap cover 96 pixels; 3 rows at a time fill up the last of 3 batches of 4 x 2 rows.
    assert meter.passes == (4, 4 * 1 + 9 * 2 + 4 * 2 + 4 * 2)
    for maps, (changes, sample) in zip(found, SAMPLINGS, strict=True):
        assert torch.equal(maps, sample(bundle.inferer(**changes), image, network))
    remembering.forget()
    with PassMeter(network) as meter:
        bundle.inferer()(image, remembering)
        bundle.inferer()(image.flip(2), remembering)
    assert meter.passes.encoder == 8


@pytest.mark.parametrize(
    ("other", "calls"),
    [
        (lambda image: image.clone(), 1),
        (lambda image: image.contiguous(memory_format=torch.channels_last), 1),
        (lambda image: torch.cat([image, image])[:1], 1),
        (lambda image: image.index_fill(3, torch.tensor(1), 7.0), 2),
        (lambda image: image.reshape(1, 3, 8, 2), 2),
        (lambda image: image.view(torch.int32), 2),
    ],
    ids=["copy", "layout", "view", "value", "shape", "type"],
)
def test_features_are_found_by_content(other: Callable[[torch.Tensor], torch.Tensor], calls: int) -> None:
    image = torch.arange(48.0).reshape(1, 3, 4, 4)
    remembering = RememberedFeatures(Recorder())
    first = remembering.encode_image(image)
    assert torch.equal(first, image * 2)
    assert torch.equal(remembering.encode_image(other(image)), other(image) * 2)
    assert remembering.network.calls == calls


def test_features_are_found_by_precision() -> None:
    remembering = RememberedFeatures(Recorder())
    image = torch.zeros(1, 3, 4, 4)
    for _ in range(2):
        remembering.encode_image(image)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            remembering.encode_image(image)
        with torch.autocast("cpu", dtype=torch.float16):
            remembering.encode_image(image)
    assert remembering.network.calls == 3


def test_the_rest_is_the_network_itself() -> None:
    network = Recorder().eval()
    remembering = RememberedFeatures(network)
    names = ("spatial_dims", "image_channels", "mask_channels", "size_divisor")
    assert [getattr(remembering, name) for name in names] == [3, 4, 5, 6]
    assert not remembering.training
    assert not network.training
    assert RememberedFeatures(Recorder()).training
    assert remembering.train().network.training
    assert remembering(torch.ones(1), torch.ones(1), image_features=torch.ones(1)).item() == 3


def test_compiled_code_encodes_anew() -> None:
    remembering = RememberedFeatures(Recorder())
    encode = torch.compile(remembering.encode_image, fullgraph=True, backend="eager")
    image = torch.ones(1, 3, 4, 4)
    assert torch.equal(encode(image), image * 2)
    assert torch.equal(encode(image), image * 2)
    remembering.encode_image(image)
    assert remembering.network.calls == 3
