# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.networks.nets import UNETR, AttentionUnet, BasicUNet, DynUNet, SegResNet, SwinUNETR, UNet, VNet
from torch import nn
from torch.nn import functional as F

from monai_segdiff import BaseSegmentor

K = 3


def basic_unet(dims: int = 2) -> BasicUNet:
    return BasicUNet(dims, 1, K, features=(8, 8, 8, 8, 8, 8))


def swin(dims: int) -> SwinUNETR:
    return SwinUNETR(1, K, depths=(1,) * 4, num_heads=(1,) * 4, feature_size=12, spatial_dims=dims)


def dyn_unet(dims: int, deep_supervision: bool = False) -> DynUNet:
    levels = 4
    return DynUNet(
        dims,
        1,
        K,
        [3] * levels,
        [1, 2, 2, 2],
        [2, 2, 2],
        [8] * levels,
        deep_supervision=deep_supervision,
        deep_supr_num=2,
    )


def unetr(dims: int) -> UNETR:
    size = {2: 64, 3: 32}[dims]
    return UNETR(1, K, size, feature_size=8, hidden_size=48, mlp_dim=64, num_heads=2, spatial_dims=dims)


# make(dims), size_divisor, layer, channels, stride of the features
NETWORKS: dict[str, tuple[Callable[[int], nn.Module], int, str, int, int]] = {
    "SegResNet": (lambda d: SegResNet(d, 8, 1, K), 8, "conv_final.2.conv", 8, 1),
    "BasicUNet": (basic_unet, 16, "final_conv", 8, 1),
    "SwinUNETR": (swin, 32, "out.conv.conv", 12, 1),
    "DynUNet": (dyn_unet, 8, "output_block.conv.conv", 8, 1),
    "DynUNet, deep supervision": (lambda d: dyn_unet(d, True), 8, "output_block.conv.conv", 8, 1),
    "AttentionUnet": (lambda d: AttentionUnet(d, 1, K, (8, 16), (2,)), 2, "model.2.conv", 8, 1),
    "UNet": (lambda d: UNet(d, 1, K, (8, 16, 32), (2, 2)), 4, "model.2.conv", 16, 2),
    "UNet, residual": (lambda d: UNet(d, 1, K, (8, 16, 32), (2, 2), num_res_units=2), 4, "model.2.0.conv", 16, 2),
    "UNETR": (unetr, 16, "out.conv.conv", 8, 1),
    "VNet": (lambda d: VNet(d, 1, K), 16, "out_tr.conv_block.conv", 32, 1),
}
IN_3D = [name for name in NETWORKS if name != "VNet"]  # which is too large for a test


def size_for(dims: int, divisor: int) -> tuple[int, ...]:
    """Give sizes that leave more than one voxel at the lowest level, for the normalisation."""
    if dims == 2:
        return 64, 64
    return (64, 32, 32) if divisor == 32 else (32 if divisor == 16 else 16,) * 3


def hooks(module: nn.Module) -> int:
    return sum(len(part._forward_pre_hooks) + len(part._forward_hooks) for part in module.modules())


@pytest.mark.parametrize(("dims", "name"), [(2, name) for name in NETWORKS] + [(3, name) for name in IN_3D])
@torch.no_grad()
def test_features_of_the_networks_of_monai(dims: int, name: str) -> None:
    make, divisor, layer, channels, stride = NETWORKS[name]
    torch.manual_seed(0)
    network = make(dims)
    size = size_for(dims, divisor)
    base = BaseSegmentor(network, dims, 1, K, size_divisor=divisor, probe_size=size)
    assert (base.feature_layer, base.feature_channels) == (layer, channels)
    assert hooks(base) == 0
    image = torch.rand(1, 1, *size)
    features, logits = base(image)
    assert hooks(base) == 0
    seen = []
    network.eval().get_submodule(layer).register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    assert torch.equal(logits, network(image))
    assert features is not None
    assert torch.equal(features, seen[0])
    assert features.shape == (1, channels, *(edge // stride for edge in size))
    if name not in ("UNet, residual", "VNet"):  # which go on with the class channels
        assert torch.equal(base.network.get_submodule(layer)(features), logits)


def test_another_layer() -> None:
    base = BaseSegmentor(basic_unet(), 2, 1, K, feature_layer="upcat_1", size_divisor=16)
    features, _ = base(torch.zeros(2, 1, 32, 48))
    assert features is not None
    assert (base.feature_layer, base.feature_channels) == ("upcat_1", 8)
    assert features.shape == (2, 8, 16, 24)


def test_black_box() -> None:
    network = basic_unet().eval()
    base = BaseSegmentor(network, 2, 1, K, feature_layer="", size_divisor=16)
    image = torch.rand(1, 1, 32, 32)
    features, logits = base(image)
    assert features is None
    assert base.feature_channels == 0
    assert torch.equal(logits, network(image))


class Layers(nn.Module):
    """Runs its modules in an order of its own."""

    def __init__(self, order: str, **layers: nn.Module) -> None:
        super().__init__()
        self.order = order.split()
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: torch.Tensor) -> Any:
        for name in self.order:
            x = getattr(self, name)(x)
        return x


def conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 1)


@pytest.mark.parametrize(
    ("network", "layer"),
    [
        (Layers("a b", b=conv(4, K), a=conv(1, 4)), "b"),
        (Layers("a b c d", d=conv(4, K), a=conv(1, K), b=conv(K, 4), c=nn.BatchNorm2d(4)), "d"),
        (Layers("a b c", a=conv(1, 4), b=conv(4, K), c=conv(K, K)), "c"),
        (Layers("a b", a=conv(1, 4), b=conv(4, K), unused=conv(7, K)), "b"),
        (Layers("a b", a=conv(1, 4), b=nn.ConvTranspose2d(4, K, 1)), "b"),
        (Layers("a b a b", a=conv(K, 4), b=conv(4, K)), "b"),
    ],
    ids=["order of execution", "the last", "as wide as the classes", "unused", "transposed", "twice"],
)
def test_the_layer_found(network: Layers, layer: str) -> None:
    channels = network.a.in_channels
    base = BaseSegmentor(network, 2, channels, K)
    assert base.feature_layer == layer
    image = torch.rand(1, channels, 8, 8)
    features, logits = base(image)
    assert features is not None
    last = len(network.order) - 1 - network.order[::-1].index(layer)
    before = Layers(" ".join(network.order[:last]), **dict(network.named_children()))
    assert torch.equal(features, before.eval()(image))


@pytest.mark.parametrize("residual_units", [0, 2])
def test_unet_with_features_as_wide_as_the_classes(residual_units: int) -> None:
    network = UNet(2, 1, 16, channels=(8, 16, 32), strides=(2, 2), num_res_units=residual_units)
    base = BaseSegmentor(network, 2, 1, 16, size_divisor=4)
    assert (base.feature_layer, base.feature_channels) == (f"model.2{'.0' * (residual_units > 0)}.conv", 16)


class TakesTurns(nn.Module):
    """The second thread reaches the classifier after the first one, and neither leaves before both have."""

    turns: threading.Barrier | None = None

    def __init__(self) -> None:
        super().__init__()
        self.body, self.classifier = conv(1, 4), conv(4, K)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = self.body(x)
        if self.turns is None:
            return self.classifier(features)
        second = bool(x.max() > 1)
        self.turns.wait()
        if second:
            self.turns.wait()
        logits = self.classifier(features)
        if not second:
            self.turns.wait()
        self.turns.wait()
        return logits


def test_threads_do_not_mix_their_features(monkeypatch: pytest.MonkeyPatch) -> None:
    base = BaseSegmentor(TakesTurns(), 2, 1, K)
    images = [torch.full((1, 1, 4, 4), 1.0), torch.full((1, 1, 4, 4), 2.0)]
    expected = [base(image) for image in images]
    monkeypatch.setattr(TakesTurns, "turns", threading.Barrier(2, timeout=60))
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(base, images))
    for (features, logits), (own_features, own_logits) in zip(found, expected, strict=True):
        assert torch.equal(features, own_features)
        assert torch.equal(logits, own_logits)
    assert not torch.equal(found[0][0], found[1][0])
    assert hooks(base) == 0


def test_the_network_given_is_left_alone() -> None:
    network = Layers("a b c", a=conv(1, 4), b=nn.BatchNorm2d(4), c=conv(4, K)).train()
    state = torch.random.get_rng_state()
    base = BaseSegmentor(network, 2, 1, K)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(part.training for part in network.modules())
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert torch.equal(network.b.running_mean, torch.zeros(4))
    own = base.network.a.weight.clone()
    nn.init.zeros_(network.a.weight)
    assert torch.equal(base.network.a.weight, own)


def test_frozen_in_evaluation_mode() -> None:
    base = BaseSegmentor(Layers("a b c d", a=conv(1, 4), b=nn.BatchNorm2d(4), c=nn.Dropout(0.5), d=conv(4, K)), 2, 1, K)
    before = {name: value.clone() for name, value in base.state_dict().items()}
    whole = nn.ModuleList([base]).train()
    assert base.train() is base
    assert whole.training
    assert not any(part.training for part in base.modules())
    image = torch.randn(2, 1, 8, 8, requires_grad=True)
    first, second = base(image), base(image)
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one, other)
        assert not one.requires_grad
    assert not any(parameter.requires_grad for parameter in base.parameters())
    assert all(torch.equal(value, before[name]) for name, value in base.state_dict().items())


class Records(nn.Module):
    """Predicts class 0; remembers what it was asked."""

    sizes: list[list[int]] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.sizes.append(list(x.shape))
        return F.one_hot(torch.zeros_like(x[:, 0], dtype=torch.long), K).movedim(-1, 1).float()


@pytest.mark.parametrize(
    ("dims", "arguments", "size"),
    [
        (2, {}, [64, 64]),
        (2, {"probe_size": (20, 33), "size_divisor": 16}, [32, 48]),
        (3, {"probe_size": 10, "size_divisor": 4}, [12, 12, 12]),
        (3, {"probe_size": 8, "size_divisor": 8}, [16, 16, 16]),
    ],
)
def test_size_of_the_probe(
    monkeypatch: pytest.MonkeyPatch, dims: int, arguments: dict[str, Any], size: list[int]
) -> None:
    monkeypatch.setattr(Records, "sizes", [])
    BaseSegmentor(Records(), dims, 2, K, feature_layer="", **arguments)
    assert Records.sizes == [[1, 2, *size]]


def test_weights_through_a_file(tmp_path: Path) -> None:
    base, other = (BaseSegmentor(basic_unet(), 2, 1, K, size_divisor=16) for _ in range(2))
    torch.save(base.state_dict(), tmp_path / "base.pt")
    other.load_state_dict(torch.load(tmp_path / "base.pt", weights_only=True), strict=True)
    image = torch.rand(1, 1, 32, 32)
    assert all(torch.equal(one, two) for one, two in zip(base(image), other(image), strict=True))
    assert list(base.state_dict()) == [f"network.{name}" for name in basic_unet().state_dict()]


class Returns(nn.Module):
    """A classifier whose result is changed."""

    def __init__(self, change: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.classifier, self.change = conv(1, K), change

    def forward(self, x: torch.Tensor) -> Any:
        return self.change(self.classifier(x))


class ByName(Layers):
    """Gives its last layer its input by name."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(input=self.a(x))


def last_of_tokens() -> Layers:
    back = nn.Unflatten(2, (64, 64))
    return Layers("a fold tokens back", a=conv(1, K), fold=nn.Flatten(2), tokens=nn.Identity(), back=back)


@pytest.mark.parametrize(
    ("network", "arguments", "error", "message"),
    [
        (conv(1, K), {"spatial_dims": 1}, ValueError, "spatial_dims must be 2 or 3, found 1"),
        (conv(1, K), {"num_classes": 1}, ValueError, "num_classes must be at least 2, found 1"),
        (conv(1, K), {"size_divisor": 0}, ValueError, "size_divisor must be at least 1, found 0"),
        (
            Layers("a b", a=conv(1, 4), b=conv(4, K)),
            {"feature_layer": "head"},
            ValueError,
            r"feature_layer 'head' is not a module of Layers; its modules are \['a', 'b'\]",
        ),
        (
            Layers("a", a=conv(1, K), idle=conv(4, K)),
            {"feature_layer": "idle"},
            ValueError,
            "feature_layer 'idle' gets no input in the network's prediction",
        ),
        (ByName("", a=conv(1, 4), b=conv(4, K)), {}, ValueError, "feature_layer 'b' gets no input"),
        (
            last_of_tokens(),
            {"feature_layer": "tokens"},
            ValueError,
            r"input of feature_layer 'tokens' must have shape \[B, C, 2 spatial sizes\], found \[1, 3, 4096\]",
        ),
        (Layers("a", a=nn.Identity()), {"image_channels": K}, ValueError, "no convolution to 3 channels in Layers"),
        (Returns(lambda x: [x, x]), {}, TypeError, "Expected Returns to return one tensor of logits, found list"),
        (Returns(lambda x: {"out": x}), {"feature_layer": ""}, TypeError, "found dict; wrap it"),
        (
            Returns(lambda x: x[:, :2]),
            {"feature_layer": "classifier"},
            ValueError,
            r"logits of shape \[1, 3, 64, 64\] from Returns, found \[1, 2, 64, 64\]",
        ),
        (Returns(lambda x: x), {"num_classes": 4, "feature_layer": ""}, ValueError, r"\[1, 4, 64, 64\] .* \[1, 3, "),
        (Returns(lambda x: x[..., ::2]), {}, ValueError, r"found \[1, 3, 64, 32\]"),
    ],
)
def test_refused(network: nn.Module, arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments = {"spatial_dims": 2, "image_channels": 1, "num_classes": K} | arguments
    with pytest.raises(error, match=message):
        BaseSegmentor(network, **arguments)


def test_hooks_are_removed_when_the_network_fails() -> None:
    base = BaseSegmentor(basic_unet(), 2, 1, K, size_divisor=16)
    with pytest.raises(RuntimeError):
        base(torch.zeros(1, 2, 32, 32))
    assert hooks(base) == 0
