# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import pytest
import torch
from monai.inferers import SlidingWindowInferer
from monai.networks.nets import UNet
from torch import nn

from monai_segdiff import SegmentorInferer


def network(out_channels: int = 1) -> UNet:
    torch.manual_seed(0)
    return UNet(2, 3, out_channels, channels=(4, 8), strides=(2,)).eval()


def test_one_window_is_the_sigmoid_of_the_logits() -> None:
    image, unet = torch.randn(2, 3, 16, 16), network(2)
    torch.testing.assert_close(SegmentorInferer(16)(image, unet), unet(image).sigmoid())


@pytest.mark.parametrize("mode", ["gaussian", "constant"])
@pytest.mark.parametrize("sw_batch_size", [1, 3])
def test_windows_blend_probabilities(mode: str, sw_batch_size: int) -> None:
    image, unet = torch.randn(1, 3, 37, 24), network()
    found = SegmentorInferer(16, overlap=0.5, mode=mode, sw_batch_size=sw_batch_size)(image, unet)
    # What MONAI blends of a network whose last layer is the sigmoid.
    expected = SlidingWindowInferer(16, 1, 0.5, mode)(image, nn.Sequential(unet, nn.Sigmoid()))
    torch.testing.assert_close(found, expected)
    assert found.min() >= 0
    assert found.max() <= 1


def test_smaller_images_are_padded_by_their_border() -> None:
    image, unet = torch.randn(1, 3, 10, 16), network()
    padded = torch.cat([image[:, :, :1].expand(-1, -1, 3, -1), image, image[:, :, -1:].expand(-1, -1, 3, -1)], dim=2)
    expected = unet(padded).sigmoid()[:, :, 3:13]
    torch.testing.assert_close(SegmentorInferer(16)(image, unet), expected)


def test_bfloat16_stays_inside_of_the_network() -> None:
    image, unet = torch.randn(1, 3, 16, 16), network()
    exact, found = (SegmentorInferer(16, amp=amp)(image, unet) for amp in (False, True))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, exact, atol=0.02, rtol=0)
    assert not torch.equal(found, exact)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_inference_steps": 3}, "num_inference_steps=0 and num_generations=1, found 3 and 1"),
        ({"num_generations": 9}, "num_inference_steps=0 and num_generations=1, found 0 and 9"),
        ({"roi_size": 200, "size_divisor": 16}, "roi_size is 200, expected multiples of 16"),
        ({"roi_size": (32, 40), "size_divisor": 16}, r"roi_size is \(32, 40\), expected multiples of 16"),
    ],
)
def test_what_such_a_network_cannot_do(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SegmentorInferer(**{"roi_size": 32, **arguments})
