# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from monai_segdiff import SegDiffUNet, convert_released_state_dict

FIXTURE = Path(__file__).parents[3].parent / "shared" / "fixtures" / "segdiff_reference.pt"
DEPTH7 = {"channels": (128, 128, 128, 256, 256, 512, 512), "attention_levels": (*[False] * 4, True, True, False)}
DEPTH6 = {"channels": (128, 128, 256, 256, 512, 512), "attention_levels": (*[False] * 3, True, True, False)}


def tiny(spatial_dims: int = 2, **changes: Any) -> SegDiffUNet:
    """Return a small network in which no layer is zero, so that everything shows in the output."""
    torch.manual_seed(0)
    arguments = {"image_channels": 3, "mask_channels": 1, "channels": (8, 16), "attention_levels": (False, True)}
    arguments |= {"num_res_blocks": 1, "num_rrdb_blocks": 1, "rrdb_channels": 4, "rrdb_growth_channels": 2}
    network = SegDiffUNet(spatial_dims, **(arguments | {"norm_num_groups": 4} | changes))  # type: ignore[arg-type]
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return network.eval()


@pytest.mark.parametrize(
    ("architecture", "num_rrdb_blocks", "parameters"),
    [(DEPTH6, 15, 162_766_017), (DEPTH7, 6, 159_838_209), (DEPTH7, 12, 164_154_753)],
    ids=["Cityscapes", "Vaihingen", "MoNuSeg"],
)
def test_published_parameter_counts(architecture: dict[str, Any], num_rrdb_blocks: int, parameters: int) -> None:
    with torch.device("meta"):
        network = SegDiffUNet(2, 3, 1, num_res_blocks=3, num_rrdb_blocks=num_rrdb_blocks, **architecture)
    assert sum(p.numel() for p in network.parameters()) == parameters
    without_encoder = parameters - sum(p.numel() for p in network.image_encoder.parameters())
    assert architecture is DEPTH6 or without_encoder == 155_372_161


@pytest.fixture(scope="module")
def reference() -> dict[str, Any]:
    if not FIXTURE.is_file():
        pytest.skip("the reference tensors of the released code are not present")
    return torch.load(FIXTURE, weights_only=True)


@torch.no_grad()
def test_forward_equals_the_released_code(reference: dict[str, Any]) -> None:
    levels = {"channels": (32, 64, 96, 128), "attention_levels": (False, False, True, True)}
    network = SegDiffUNet(2, 3, 1, num_res_blocks=2, num_rrdb_blocks=2, **levels).eval()  # type: ignore[arg-type]
    network.load_state_dict(convert_released_state_dict(reference["state_dict"], num_res_blocks=2))
    assert (network.encode_image(reference["image"]) - reference["image_encoder_out"]).abs().max() < 1e-5
    assert (network.mask_encoder(reference["x_t"]) - reference["mask_encoder_out"]).abs().max() < 1e-5
    output = network(reference["x_t"], reference["timesteps"], context=reference["image"])
    assert (output - reference["output"]).abs().max() < 1e-5


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("patch_size", [1, 2])
@torch.no_grad()
def test_given_features_equal_the_image_bit_for_bit(spatial_dims: int, patch_size: int) -> None:
    network = tiny(spatial_dims, patch_size=patch_size, image_channels=2, mask_channels=3)
    image, x = torch.randn(2, 2, *[8] * spatial_dims), torch.randn(2, 3, *[8] * spatial_dims)
    output = network(x, torch.tensor([5.0]), context=image)
    assert output.shape == x.shape
    assert torch.equal(network(x, torch.tensor([5]), image_features=network.encode_image(image)), output)
    assert torch.allclose(network(x, torch.tensor([5, 5]), context=image), output, atol=1e-5)
    assert not torch.allclose(network(x, torch.tensor([6]), context=image), output, atol=1e-4)
    assert not torch.allclose(network(x, torch.tensor([5]), context=image + 1), output, atol=1e-4)


@torch.no_grad()
def test_the_sum_is_all_that_the_unet_sees() -> None:
    network = tiny()
    image, x, t = torch.randn(1, 3, 8, 8), torch.randn(1, 1, 8, 8), torch.tensor([3])
    features = network.encode_image(image)
    mask_features = network.mask_encoder(x)
    # The same sum from other summands gives the same output: the image enters nowhere else, not even by a skip.
    shifted = network(torch.zeros_like(x), t, image_features=features + mask_features - network.mask_encoder(x * 0))
    assert torch.allclose(shifted, network(x, t, context=image), atol=1e-5)
    assert torch.allclose(network.unet(mask_features, t), network(x, t, image_features=features * 0), atol=1e-6)


def test_fresh_network_is_zero() -> None:
    network = SegDiffUNet(2, 3, 1, channels=(32, 64), attention_levels=(False, True), num_res_blocks=1)
    assert not network(torch.randn(1, 1, 8, 8), torch.tensor([1]), context=torch.randn(1, 3, 8, 8)).any()
    projections = [p for name, p in network.named_parameters() if "out_proj" in name]
    # One level: one block in E, two in D, and the bottleneck; weight and bias each.
    assert len(projections) == 8
    assert not any(p.any() for p in projections)


@torch.no_grad()
def test_dropout_acts_in_training_only_and_keeps_the_keys() -> None:
    plain, dropping = tiny(), tiny(dropout=0.5)
    assert plain.state_dict().keys() == dropping.state_dict().keys()
    dropping.load_state_dict(plain.state_dict())
    image, x, t = torch.randn(1, 3, 8, 8), torch.randn(1, 1, 8, 8), torch.tensor([3])
    assert torch.equal(dropping(x, t, context=image), plain(x, t, context=image))
    dropping.train()
    assert not torch.equal(dropping(x, t, context=image), dropping(x, t, context=image))
    blocks = 2 + 4 + 2  # one residual block a level in E, two in D, two in the bottleneck
    assert sum(isinstance(module, nn.Dropout) and module.p == 0.5 for module in dropping.modules()) == blocks


def test_gradient_reaches_every_parameter_and_any_encoder_will_do() -> None:
    network = tiny(image_encoder=nn.Conv2d(3, 8, 1)).train()
    network(torch.randn(1, 1, 8, 8), torch.tensor([1]), context=torch.randn(1, 3, 8, 8)).square().mean().backward()
    assert all(p.grad is not None and p.grad.any() for name, p in network.named_parameters() if "to_k.bias" not in name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"spatial_dims": 1}, "spatial_dims must be 2 or 3, found 1"),
        ({"channels": (8, 18)}, r"found \[18\]; the next valid widths are \[20\]"),
        ({"patch_size": 0}, "patch_size must be at least 1, found 0"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\), found 1.0"),
        ({"conditioning": "product"}, r"conditioning must be 'sum', .* with 2 levels, found 'product'"),
        ({"conditioning": "add_after_down_2"}, "'add_after_down_1' to 'add_after_down_1' with 2 levels"),
        ({"conditioning": "add_after_down_0"}, "found 'add_after_down_0'"),
        ({"conditioning": "concat_image", "image_encoder": nn.Identity()}, "has no image_encoder, found Identity"),
    ],
)
def test_bad_arguments(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny(**changes)


@pytest.mark.parametrize(
    ("x", "image", "message"),
    [
        ((1, 1, 8, 8), (1, 4, 8, 8), r"image must have shape \[B, 3, 2 spatial sizes\], found \[1, 4, 8, 8\]"),
        ((1, 2, 8, 8), (1, 3, 8, 8), r"x must have shape \[B, 1, 2 spatial sizes\], found \[1, 2, 8, 8\]"),
        ((1, 1, 8, 8), (1, 3, 8, 8, 8), r"found \[1, 3, 8, 8, 8\]"),
        ((1, 1, 10, 8), (1, 3, 10, 8), r"multiples of 4, found \[10, 8\]; \[12, 8\] would do"),
    ],
)
def test_bad_input(x: tuple[int, ...], image: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny(patch_size=2)(torch.zeros(x), torch.tensor([0]), context=torch.zeros(image))


@pytest.mark.parametrize("both", [True, False])
def test_image_and_features_exclude_each_other(both: bool) -> None:
    network, image = tiny(), torch.zeros(1, 3, 8, 8)
    given = {"context": image, "image_features": network.encode_image(image)} if both else {}
    with pytest.raises(ValueError, match="either"):
        network(torch.zeros(1, 1, 8, 8), torch.tensor([0]), **given)
