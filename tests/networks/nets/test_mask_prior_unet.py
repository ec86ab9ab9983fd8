# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.networks.layers.factories import Conv
from torch import nn
from torch.nn import functional as F

from monai_segdiff import BaseSegmentor, MaskPriorUNet
from monai_segdiff.networks.blocks.space_to_depth import space_to_depth

WIDTH = 5


class Segmentor(nn.Module):
    """Features with batch statistics and dropout, at a resolution of their own, and a classifier."""

    def __init__(self, dims: int, channels: int, classes: int, stride: int) -> None:
        super().__init__()
        conv = Conv[Conv.CONV, dims]
        norm = nn.BatchNorm2d if dims == 2 else nn.BatchNorm3d
        self.body = nn.Sequential(conv(channels, WIDTH, stride, stride=stride), norm(WIDTH), nn.ReLU(), nn.Dropout(0.5))
        self.classifier = conv(WIDTH, classes, 1)
        self.stride = stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.interpolate(self.classifier(self.body(x)), scale_factor=self.stride, mode="nearest")


def segmentor(dims: int = 2, classes: int = 3, stride: int = 1, channels: int = 2, **arguments: Any) -> BaseSegmentor:
    torch.manual_seed(0)
    network = Segmentor(dims, channels, classes, stride)
    for _ in range(3):
        network(1 + torch.randn(4, channels, *[8] * dims))  # statistics other than 0 and 1
    return BaseSegmentor(network, dims, channels, classes, **({"size_divisor": stride} | arguments))


def tiny(base: BaseSegmentor | None = None, **changes: Any) -> MaskPriorUNet:
    """Return a small network in which no layer is zero, so that everything shows in the output."""
    base = base or segmentor()
    torch.manual_seed(1)
    arguments = {"channels": (8, 16), "attention_levels": (False, False), "num_res_blocks": 1, "num_head_channels": 8}
    arguments |= {"condition_channels": 6, "embedding_channels": 4, "norm_num_groups": 4}
    network = MaskPriorUNet(base, **(arguments | changes))  # type: ignore[arg-type]
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return network.eval()


def inputs_of(network: MaskPriorUNet, batch: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Return noisy labels and images of sizes that differ between the axes."""
    generator = torch.Generator().manual_seed(2)
    size = [network.size_divisor * (2 if axis == 0 else 1) for axis in range(network.spatial_dims)]
    image = torch.randn(batch, network.image_channels, *size, generator=generator)
    latent = [edge // network.latent_stride for edge in size]
    return torch.randint(network.num_classes, (batch, 1, *latent), generator=generator), image


CASES = [
    (2, 3, {}),
    (2, 2, {"patch_size": 2}),
    (2, 3, {"patch_size": 4, "condition": "both"}),
    (2, 3, {"latent_stride": 2, "condition": "prediction"}),
    (2, 4, {"latent_stride": 4}),
    (2, 3, {"latent_stride": 2, "patch_size": 2, "condition": "both"}),
    (3, 3, {"condition": "prediction"}),
    (3, 2, {"patch_size": 2, "condition": "both"}),
    (3, 3, {"latent_stride": 2}),
]


@pytest.mark.parametrize(("dims", "classes", "changes"), CASES)
@torch.no_grad()
def test_shapes_and_ways_to_give_the_image(dims: int, classes: int, changes: dict[str, Any]) -> None:
    network = tiny(segmentor(dims, classes), **changes)
    stride, patch = changes.get("latent_stride", 1), changes.get("patch_size", 1)
    assert network.size_divisor == 2 * stride * patch
    assert network.mask_channels == network.num_classes == classes
    x, image = inputs_of(network)
    full, latent, folded = ([size // edge for size in image.shape[2:]] for edge in (1, stride, stride * patch))
    logits = network.base(image)[1]
    output = network(x, torch.tensor([3]), context=image)
    assert output.shape == (2, classes, *latent)
    assert network.upsample(output).shape == (2, classes, *full)
    observation, features = network.observe(image), network.encode_image(image)
    seen = {"features": WIDTH, "prediction": 0, "both": WIDTH}[changes.get("condition", "features")]
    if changes.get("condition", "features") != "features":
        seen += (2 + classes) * (stride * patch) ** dims
    assert observation.shape == (2, seen + classes * (stride * patch) ** dims, *folded)
    assert features.shape == (2, 6 + classes * (stride * patch) ** dims, *folded)
    assert torch.equal(network.observed_logits(observation), logits)
    assert torch.equal(network.base_logits(features), logits)
    assert torch.equal(network(x, torch.tensor([3]), observation=observation), output)
    assert torch.equal(network(x, torch.tensor([3]), image_features=features), output)
    assert network.to_latent(logits.argmax(1, keepdim=True)).shape == x.shape
    # Everything given matters, and each row by itself.
    assert not torch.allclose(network((x + 1) % classes, torch.tensor([3]), context=image), output, atol=1e-4)
    assert not torch.allclose(network(x, torch.tensor([4]), context=image), output, atol=1e-4)
    assert not torch.allclose(network(x, torch.tensor([3]), context=image + 1), output, atol=1e-4)
    rows = [network(x[i : i + 1], torch.tensor([3 + i]), context=image[i : i + 1]) for i in range(2)]
    assert torch.allclose(network(x, torch.tensor([3, 4]), context=image), torch.cat(rows), atol=1e-5)


@torch.no_grad()
def test_what_is_observed() -> None:
    base = segmentor()
    _, image = inputs_of(tiny(base, patch_size=2))
    features, logits = base(image)
    assert features is not None
    seen = space_to_depth(torch.cat([image, logits.softmax(1)], 1), 2)
    parts = {"features": [F.avg_pool2d(features, 2)], "prediction": [seen], "both": [F.avg_pool2d(features, 2), seen]}
    for condition, expected in parts.items():
        network = tiny(base, patch_size=2, condition=condition)
        observation = network.observe(image)
        assert torch.allclose(observation[:, : network.base_channels], torch.cat(expected, 1), atol=1e-6)
        projected = network.projection(observation[:, : network.base_channels])
        assert torch.equal(network.encode_image(image)[:, :6], projected)


@pytest.mark.parametrize("dims", [2, 3])
@torch.no_grad()
def test_coarse_features_are_interpolated(dims: int) -> None:
    base = segmentor(dims, stride=2)
    network, coarse = tiny(base), tiny(base, latent_stride=2)
    _, image = inputs_of(coarse)
    features, _ = base(image)
    assert features is not None
    mode = "bilinear" if dims == 2 else "trilinear"
    expected = F.interpolate(features, scale_factor=2, mode=mode, align_corners=False)
    assert torch.equal(network.observe(image)[:, :WIDTH], expected)
    # As coarse as the maps inside: taken as they are.
    assert torch.equal(coarse.observe(image)[:, :WIDTH], features)


@torch.no_grad()
def test_the_unet_sees_the_condition_and_the_embedded_labels_alone() -> None:
    network = tiny()
    x, image = inputs_of(network)
    features, t = network.encode_image(image), torch.tensor([3])
    output = network(x, t, image_features=features)
    other = torch.cat([features[:, :6], torch.zeros_like(features[:, 6:])], 1)
    assert torch.equal(network(x, t, image_features=other), output), "the base's logits ride along unseen"
    embedded = network.embedding.weight[x[:, 0]].permute(0, 3, 1, 2)
    by_hand = network.classifier(network.unet(torch.cat([features[:, :6], embedded], 1), t))
    assert torch.equal(by_hand, output)


@torch.no_grad()
def test_patches_keep_their_places() -> None:
    """A network without reach beyond its patch answers a changed label within that patch."""
    network = tiny(patch_size=2)
    network.unet = _Pointwise(network.condition_channels + 4 * 4, 8)  # type: ignore[assignment]
    x, image = inputs_of(network, batch=1)
    changed = x.clone()
    changed[0, 0, 5, 2] = (x[0, 0, 5, 2] + 1) % 3
    t = torch.tensor([0])
    differs = (network(changed, t, context=image) != network(x, t, context=image)).any(1)[0]
    assert {tuple(place) for place in differs.nonzero().tolist()} == {(4, 2), (4, 3), (5, 2), (5, 3)}


class _Pointwise(nn.Conv2d):
    """A U-Net that looks at one place at a time."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 1)

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        return super().forward(x)


def test_labels_at_the_size_inside_by_nearest_neighbours() -> None:
    labels = torch.arange(64).reshape(1, 1, 8, 8)
    assert tiny().to_latent(labels) is labels
    assert torch.equal(tiny(latent_stride=2).to_latent(labels), labels[:, :, 1::2, 1::2])
    assert torch.equal(tiny(latent_stride=4).to_latent(labels), labels[:, :, 2::4, 2::4])
    volume = torch.arange(64).reshape(1, 1, 4, 4, 4)
    latent = tiny(segmentor(3), latent_stride=2).to_latent(volume)
    assert torch.equal(latent, volume[:, :, 1::2, 1::2, 1::2])
    assert latent.dtype == torch.int64


@pytest.mark.parametrize("dims", [2, 3])
def test_logits_at_the_size_of_the_image(dims: int) -> None:
    logits = torch.randn(2, 3, *[4] * dims)
    assert tiny(segmentor(dims)).upsample(logits) is logits
    mode = "bilinear" if dims == 2 else "trilinear"
    expected = F.interpolate(logits, scale_factor=2, mode=mode, align_corners=False)
    assert torch.equal(tiny(segmentor(dims), latent_stride=2).upsample(logits), expected)


def test_black_box() -> None:
    base = segmentor(feature_layer="")
    network = tiny(base, condition="prediction")
    x, image = inputs_of(network)
    with torch.no_grad():
        assert network(x, torch.tensor([1]), context=image).shape == (2, 3, 4, 2)
    for condition in ("features", "both"):
        with pytest.raises(
            ValueError, match=f"condition='?{condition}'? needs the features of the base, which has none"
        ):
            tiny(base, condition=condition)


@torch.no_grad()
def test_the_state_of_an_absorbing_kernel_has_an_embedding() -> None:
    network = tiny(num_states=4)
    assert network.embedding.num_embeddings == 4
    x, image = inputs_of(network)
    output = network(torch.full_like(x, 3), torch.tensor([9]), context=image)
    assert output.shape == (2, 3, 4, 2), "which is no class"
    assert tiny().embedding.num_embeddings == 3
    with pytest.raises(IndexError):
        tiny()(torch.full_like(x, 3), torch.tensor([9]), context=image)


@pytest.mark.parametrize("embedding_trainable", [False, True])
@pytest.mark.parametrize("condition", ["features", "both"])
def test_training_leaves_the_base_bit_for_bit(condition: str, embedding_trainable: bool) -> None:
    network = tiny(condition=condition, embedding_trainable=embedding_trainable, dropout=0.1).train()
    assert network.training
    assert not any(part.training for part in network.base.modules())
    x, image = inputs_of(network)
    expected = network.base(image)[1]
    before = copy.deepcopy(network.state_dict())
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(network(x, torch.tensor([3]), context=image + torch.randn_like(image)), x[:, 0]).backward()
        optimizer.step()
    assert all(parameter.grad is None for parameter in network.base.parameters())
    unchanged = {name for name, value in network.state_dict().items() if torch.equal(value, before[name])}
    frozen = {name for name in before if name.startswith("base.")}
    assert unchanged == (frozen if embedding_trainable else frozen | {"embedding.weight"})
    assert torch.equal(network.base(image)[1], expected)


@torch.no_grad()
def test_dropout_acts_in_training_only() -> None:
    plain, dropping = tiny(dropout=0.0), tiny(dropout=0.5)
    assert plain.state_dict().keys() == dropping.state_dict().keys()
    dropping.load_state_dict(plain.state_dict())
    x, image = inputs_of(plain)
    t = torch.tensor([3])
    assert torch.equal(dropping(x, t, context=image), plain(x, t, context=image))
    dropping.train()
    assert not torch.equal(dropping(x, t, context=image), dropping(x, t, context=image))
    assert torch.equal(plain.train()(x, t, context=image), plain(x, t, context=image))


@torch.no_grad()
def test_weights_through_a_file_and_copies(tmp_path: Path) -> None:
    network, other = tiny(), tiny(segmentor())
    for parameter in other.parameters():
        nn.init.normal_(parameter)
    x, image = inputs_of(network)
    output = network(x, torch.tensor([3]), context=image)
    torch.save(network.state_dict(), tmp_path / "model.pt")
    other.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True), strict=True)
    assert torch.equal(other(x, torch.tensor([3]), context=image), output)
    twin = copy.deepcopy(network)
    for parameter in network.parameters():
        nn.init.zeros_(parameter)
    assert torch.equal(twin(x, torch.tensor([3]), context=image), output)
    parts = {name.split(".")[0] for name in network.state_dict()}
    assert parts == {"base", "projection", "embedding", "unet", "classifier"}


def test_the_unet_is_built_as_told() -> None:
    unet = tiny(channels=(8, 16, 24), attention_levels=(False, True, False), num_res_blocks=(1, 2, 3)).unet
    assert [len(block.resnets) for block in unet.down_blocks] == [1, 2, 3]
    assert [hasattr(block, "attentions") for block in unet.down_blocks] == [False, True, False]
    assert [block.resnets[0].out_channels for block in unet.down_blocks] == [8, 16, 24]
    groups = {module.num_groups for module in unet.modules() if isinstance(module, nn.GroupNorm)}
    assert groups == {4}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latent_stride": 0}, "latent_stride must be at least 1, found 0"),
        ({"patch_size": 0}, "patch_size must be at least 1, found 0"),
        ({"condition": "image"}, "Unsupported option"),
        ({"num_states": 2}, "num_states must be at least the 3 classes, found 2"),
        ({"channels": (8, 18)}, r"multiples of norm_num_groups=4, found \[18\]"),
        ({"num_head_channels": 5}, "num_head_channels"),
    ],
)
def test_bad_arguments(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny(**changes)


@pytest.mark.parametrize("method", ["observe", "encode_image", "forward"])
@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 3, 8, 8), r"image must have shape \[B, 2, 2 spatial sizes\], found \[1, 3, 8, 8\]"),
        ((1, 2, 8, 8, 8), r"found \[1, 2, 8, 8, 8\]"),
        ((2, 8, 8), r"found \[2, 8, 8\]"),
        ((1, 2, 6, 8), r"multiples of 4, found \[6, 8\]; \[8, 8\] would do"),
        ((1, 2, 0, 8), r"found \[0, 8\]; \[4, 8\] would do"),
    ],
)
def test_bad_images(method: str, shape: tuple[int, ...], message: str) -> None:
    network, image = tiny(patch_size=2), torch.zeros(shape)
    arguments = (torch.zeros(1, 1, 8, 8, dtype=torch.long), torch.tensor([0])) if method == "forward" else ()
    with pytest.raises(ValueError, match=message):
        getattr(network, method)(*arguments, **({"context": image} if arguments else {"image": image}))


@pytest.mark.parametrize(
    ("dims", "divisor", "changes", "expected"),
    [
        (2, 1, {}, 2),
        (2, 3, {}, 6),
        (2, 4, {"patch_size": 3}, 12),
        (3, 1, {"latent_stride": 2, "patch_size": 2}, 8),
    ],
)
@torch.no_grad()
def test_the_size_suggested_will_do(dims: int, divisor: int, changes: dict[str, Any], expected: int) -> None:
    network = tiny(segmentor(dims, size_divisor=divisor), **changes)
    assert network.size_divisor == expected
    sizes = [expected + 1, *[expected] * (dims - 1)]
    with pytest.raises(ValueError, match="would do") as caught:
        network.observe(torch.zeros(1, 2, *sizes))
    found = re.search(r"; \[([\d, ]+)\] would do", str(caught.value))
    assert found is not None
    fitting = [int(size) for size in found[1].split(", ")]
    assert fitting == [2 * expected, *[expected] * (dims - 1)]
    x = network.to_latent(torch.zeros(1, 1, *fitting, dtype=torch.long))
    logits = network(x, torch.tensor([0]), context=torch.zeros(1, 2, *fitting))
    assert network.upsample(logits).shape == (1, 3, *fitting)


@pytest.mark.parametrize("given", [(), ("context", "image_features"), ("context", "image_features", "observation")])
def test_the_image_is_given_in_one_way(given: tuple[str, ...]) -> None:
    network = tiny()
    x, image = inputs_of(network)
    ways = {"context": image, "image_features": network.encode_image(image), "observation": network.observe(image)}
    with pytest.raises(ValueError, match="Give exactly one"):
        network(x, torch.tensor([0]), **{name: ways[name] for name in given})


@pytest.mark.parametrize(
    ("shape", "changes"),
    [((2, 1, 8, 4), {}), ((2, 3, 4, 2), {}), ((2, 4, 2), {}), ((2, 1, 8, 4), {"latent_stride": 2})],
)
def test_bad_labels(shape: tuple[int, ...], changes: dict[str, Any]) -> None:
    network = tiny(**changes)
    _, image = inputs_of(network)
    with pytest.raises(ValueError, match=r"x must have shape \['B', 1, 4, 2\], found " + re.escape(str(list(shape)))):
        network(torch.zeros(shape, dtype=torch.long), torch.tensor([0]), context=image)
