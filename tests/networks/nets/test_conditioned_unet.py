# SPDX-License-Identifier: Apache-2.0
"""The conditioning variants of SegDiffUNet (ablation of arXiv 2112.00390)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from monai.inferers import DiffusionInferer
from torch import nn

from monai_segdiff import DenseEncoder, RespacedDDPMScheduler, SegDiffInferer, SegDiffUNet

DEPTH7 = {"channels": (128, 128, 128, 256, 256, 512, 512), "attention_levels": (*[False] * 4, True, True, False)}
CONDITIONINGS = ["sum", "concat_features", "concat_image", "add_after_down_1", "add_after_down_3", "add_after_down_5"]


def dense(spatial_dims: int, image_channels: int = 2) -> DenseEncoder:
    return DenseEncoder(spatial_dims, image_channels, 4, channels=4, growth_channels=4, num_layers=2, num_levels=2)


def variant(name: str, spatial_dims: int = 2, num_levels: int = 6, **changes: Any) -> SegDiffUNet:
    """Return a small network in which no layer is zero."""
    torch.manual_seed(0)
    encoder = {"image_encoder": dense(spatial_dims)} if name == "dense" else {"conditioning": name}
    arguments: dict[str, Any] = {"image_channels": 2, "mask_channels": 1, "norm_num_groups": 2, "num_res_blocks": 1}
    arguments |= {"channels": [4, 6, 8, 8, 10, 10][:num_levels], "attention_levels": [False] * num_levels}
    arguments |= {"num_rrdb_blocks": 1, "rrdb_channels": 4, "rrdb_growth_channels": 2, "num_head_channels": 2}
    network = SegDiffUNet(spatial_dims, **(arguments | encoder | changes))
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return network.eval()


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("name", [*CONDITIONINGS, "dense"])
def test_each_variant_trains_and_samples(name: str, spatial_dims: int) -> None:
    num_levels = 6 if spatial_dims == 2 or name == "add_after_down_5" else 4
    network = variant(name, spatial_dims, num_levels).train()
    scheduler = RespacedDDPMScheduler(num_train_timesteps=100)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    size = [32] * spatial_dims
    image, mask, losses = torch.randn(1, 2, *size), torch.randn(1, 1, *size).sign(), []
    noise = torch.randn_like(mask)
    for _ in range(2):
        inferer = DiffusionInferer(scheduler)
        output = inferer(mask, network, noise=noise, timesteps=torch.tensor([50]), condition=image)
        loss = (output - noise).square().mean()
        optimizer.zero_grad()
        loss.backward()
        # Of a single position the attention does not depend on query and key.
        learning = [(key, p) for key, p in network.named_parameters() if ".to_q." not in key and ".to_k." not in key]
        cut = [key for key, p in learning if not p.grad.any()]
        assert not cut, "no gradient reaches these, although the loss depends on all"
        optimizer.step()
        losses.append(loss.item())
    assert losses[1] < losses[0]

    calls = []
    network.image_encoder.register_forward_hook(lambda *args: calls.append(1))
    sampler = SegDiffInferer(scheduler, num_inference_steps=2, num_generations=2, seed=1)
    probability = sampler(image, network.eval())
    assert len(calls) == 1
    assert probability.shape == mask.shape
    assert not torch.equal(sampler(image + 1, network), probability)


@pytest.mark.parametrize("patch_size", [1, 2])
@pytest.mark.parametrize("name", [*CONDITIONINGS, "dense"])
@torch.no_grad()
def test_the_image_decides_through_its_features_alone(name: str, patch_size: int) -> None:
    encoder = {"image_encoder": dense(2, image_channels=8)} if name == "dense" and patch_size == 2 else {}
    network = variant(name, patch_size=patch_size, **encoder)
    image, x, t = torch.randn(2, 2, 64, 64), torch.randn(2, 1, 64, 64), torch.tensor([3])
    features = network.encode_image(image)
    stride = network.feature_stride
    assert features.shape[2:] == (64 // stride, 64 // stride)
    assert stride == patch_size * 2 ** int(name[-1] if name[-1].isdigit() else 0)
    output = network(x, t, context=image)
    assert torch.equal(network(x, t, image_features=features), output)
    assert not torch.allclose(network(x, t, image_features=features.roll(1, 0)), output, atol=1e-4)
    assert not torch.allclose(network(x, t, image_features=features + 1), output, atol=1e-4)


@torch.no_grad()
def test_concat_image_is_one_convolution_of_mask_and_image() -> None:
    network = variant("concat_image", patch_size=2)
    image, x = torch.randn(1, 2, 64, 64), torch.randn(1, 1, 64, 64)
    weights = [network.mask_encoder.get_parameter("conv.weight"), network.image_encoder.get_parameter("weight")]
    # Folded channels: of the mask first, then of the image.
    folded = torch.cat([nn.functional.pixel_unshuffle(x, 2), nn.functional.pixel_unshuffle(image, 2)], dim=1)
    expected = nn.functional.conv2d(
        folded, torch.cat(weights, 1), network.mask_encoder.get_parameter("conv.bias"), padding=1
    )
    seen = []
    network.unet.down_blocks[0].register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["hidden_states"]), with_kwargs=True
    )
    network(x, torch.tensor([1]), context=image)
    assert torch.allclose(seen[0], expected, atol=1e-6)


def test_concat_image_starts_as_that_one_convolution() -> None:
    torch.manual_seed(0)
    network = SegDiffUNet(2, 3, 1, channels=(256,), attention_levels=(False,), conditioning="concat_image")
    bound = (4 * 9) ** -0.5  # PyTorch's bound for 4 input channels of 3x3
    for weight in (network.mask_encoder.get_parameter("conv.weight"), network.image_encoder.get_parameter("weight")):
        assert 0.95 * bound < weight.abs().max() <= bound
    assert len(weight.untyped_storage()) == weight.numel() * 4, "no view of a larger tensor, which would be saved whole"


@pytest.mark.parametrize("level", [1, 2, 5])
@torch.no_grad()
def test_features_are_added_after_a_downsampling_and_to_its_skip(level: int) -> None:
    network = variant(f"add_after_down_{level}")
    image, x, t = torch.randn(1, 2, 32, 32), torch.randn(1, 1, 32, 32), torch.tensor([3])
    seen: dict[str, Any] = {}
    unet = network.unet
    unet.down_blocks[level - 1].register_forward_hook(lambda module, args, output: seen.update(before=output[0]))
    unet.down_blocks[level].register_forward_pre_hook(
        lambda module, args, kwargs: seen.update(after=kwargs["hidden_states"]), with_kwargs=True
    )
    # The skip of the k-th downsampling is the first that its level's decoder block lies on: its last to be used.
    unet.up_blocks[len(unet.down_blocks) - 1 - level].register_forward_pre_hook(
        lambda module, args, kwargs: seen.update(skip=kwargs["res_hidden_states_list"][0]), with_kwargs=True
    )
    output = network(x, t, context=image)
    features = network.encode_image(image)
    assert features.shape == seen["before"].shape
    assert torch.equal(seen["after"], seen["before"] + features)
    assert torch.equal(seen["skip"], seen["after"])
    assert not torch.equal(output, network.unet(network.mask_encoder(x), t))
    assert torch.allclose(
        network(x, t, image_features=features * 0), network.unet(network.mask_encoder(x), t), atol=1e-6
    )


@torch.no_grad()
def test_concat_features_doubles_what_enters_and_its_skip() -> None:
    network = variant("concat_features")
    image, x, t = torch.randn(1, 2, 32, 32), torch.randn(1, 1, 32, 32), torch.tensor([3])
    seen: dict[str, Any] = {}
    network.unet.down_blocks[0].register_forward_pre_hook(
        lambda module, args, kwargs: seen.update(first=kwargs["hidden_states"]), with_kwargs=True
    )
    network.unet.up_blocks[-1].register_forward_pre_hook(
        lambda module, args, kwargs: seen.update(skip=kwargs["res_hidden_states_list"][0]), with_kwargs=True
    )
    network(x, t, context=image)
    expected = torch.cat([network.mask_encoder(x), network.encode_image(image)], dim=1)
    assert torch.equal(seen["first"], expected)
    assert torch.equal(seen["skip"], expected)


def strided(*widths: int) -> int:
    """Return the parameters of 3x3 convolutions between these widths."""
    return sum(9 * a * b + b for a, b in zip(widths, widths[1:], strict=False))


@pytest.mark.parametrize(
    ("conditioning", "difference"),
    [
        ("sum", 0),
        # 256 instead of 128, and 384 instead of 256 channels enter a residual block: norm, 3x3 convolution, and the 1x1
        # skip, which the first one did not have.
        ("concat_features", 2 * 2 * 128 + 2 * 128 * 9 * 128 + (256 * 128 + 128) + 128 * 128),
        ("concat_image", 3 * 9 * 128 - 8_782_592),
        ("add_after_down_1", strided(128, 128)),
        ("add_after_down_3", strided(128, 128, 128, 128)),
        ("add_after_down_5", strided(128, 128, 128, 128, 128, 256)),
    ],
)
def test_parameters_of_the_published_network(conditioning: str, difference: int) -> None:
    with torch.device("meta"):
        network = SegDiffUNet(2, 3, 1, conditioning=conditioning, **DEPTH7)  # type: ignore[arg-type]
    assert sum(p.numel() for p in network.parameters()) == 164_154_753 + difference
