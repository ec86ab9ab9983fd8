# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import copy
import pickle
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter

from monai_segdiff import SegDiffInferer
from monai_segdiff.inferers.compiled_network import CompiledNetwork

sys.path.insert(0, str(Path(__file__).parent))
from inferer_stand_ins import image_of, inferer, tiny_network  # noqa: E402


class Small(nn.Module):
    """Little to trace, and nothing to note: whatever a network notes would have to be traced as well."""

    spatial_dims, mask_channels, size_divisor = 2, 1, 4

    def __init__(self, seed: int = 0, image_channels: int = 1) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.image_channels = image_channels
        self.encoder, self.decoder = nn.Conv2d(image_channels, 4, 3, padding=1), nn.Conv2d(4, 1, 3, padding=1)

    def encode_image(self, image: torch.Tensor) -> torch.Tensor:
        return self.encoder(image)

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor, image_features: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.decoder(x + image_features) + timesteps / 100)


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compiling(backend: Any, **arguments: Any) -> SegDiffInferer:
    """Compile by a backend that leaves the graphs as they are: inductor takes minutes on a CPU."""
    sampler = inferer(compile=True, **arguments)
    assert sampler.compiled is not None
    sampler.compiled.options["backend"] = backend
    return sampler


def test_both_halves_of_the_network_are_one_graph() -> None:
    network, counter = tiny_network(), CompileCounter()
    compiled = CompiledNetwork()
    compiled.options["backend"] = counter
    encode, denoise = compiled(network)
    image, x = image_of(1, 3, 16, 16), image_of(2, 1, 16, 16)
    with torch.inference_mode(), torch._dynamo.config.patch(error_on_recompile=True):
        features = encode(image)
        assert counter.frame_count == 1
        assert torch.equal(features, network.encode_image(image))
        for timestep in (99, 50, 0):
            # As the sampler gives it: a part of all timesteps, at another place in memory at every step.
            now = torch.arange(100)[timestep : timestep + 1]
            found = denoise(x, now, image_features=features.expand(2, -1, -1, -1).contiguous())
            assert counter.frame_count == 2
            assert torch.equal(found, network(x, now, image_features=features.expand(2, -1, -1, -1)))
    # All of it inside, none of it left to Python.
    assert counter.op_count > 50


@pytest.mark.parametrize(
    ("window_mode", "max_batch", "memory_format"),
    [
        ("independent", 1, torch.contiguous_format),
        ("independent", 3, torch.channels_last),
        ("joint", 3, torch.contiguous_format),
        ("joint", 1, torch.channels_last),
    ],
)
def test_nothing_compiles_again(window_mode: str, max_batch: int, memory_format: torch.memory_format) -> None:
    network, counter = Small().to(memory_format=memory_format), CompileCounter()
    arguments = {"roi_size": 16, "window_mode": window_mode, "max_batch": max_batch, "num_generations": 4}
    sampler, plain = compiling(counter, **arguments), inferer(**arguments)
    # Windows cut out of images of many sizes, whole images, and images smaller than a window.
    sizes = [(1, 16, 16), (1, 40, 28), (2, 40, 28), (1, 40, 30), (1, 16, 30), (1, 40, 16), (1, 9, 9), (3, 33, 17)]
    with torch._dynamo.config.patch(error_on_recompile=True):
        for batch, *size in sizes:
            image = image_of(batch, 1, *size)
            assert torch.equal(sampler(image, network), plain(image, network))
        assert torch.equal(sampler.generations(image, network), plain.generations(image, network))
    assert counter.frame_count == 2


def test_other_ways_of_sampling_need_no_other_code() -> None:
    network, counter, image = Small(), CompileCounter(), image_of(1, 1, 24, 20)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for changes in ({}, {"num_generations": 5}, {"num_inference_steps": 7}, {"cache_image_features": False}):
            arguments: dict[str, Any] = {"roi_size": 16, "max_batch": 2} | changes
            found = compiling(counter, **arguments)(image, network)
            assert torch.equal(found, inferer(**arguments)(image, network))
    assert counter.frame_count == 2


def test_several_channels_in_any_layout() -> None:
    network, counter = Small(image_channels=3), CompileCounter()
    sampler = compiling(counter, roi_size=16)
    image = image_of(1, 3, 20, 20)
    with torch._dynamo.config.patch(error_on_recompile=True):
        expected = sampler(image, network)
        assert torch.equal(sampler(image.to(memory_format=torch.channels_last), network), expected)
        assert torch.equal(sampler(image.double(), network), expected)
    assert counter.frame_count == 2


def test_another_network_is_compiled_anew() -> None:
    counter, image = CompileCounter(), image_of(1, 1, 16, 16)
    sampler = compiling(counter)
    first, second = Small(0), Small(1)
    for network in (first, second, first, second):
        assert torch.equal(sampler(image, network), inferer()(image, network))
    # New weights in the same network are read, not remembered.
    before = sampler(image, first)
    first.load_state_dict(second.state_dict())
    assert torch.equal(sampler(image, first), sampler(image, second))
    assert not torch.equal(sampler(image, first), before)


def test_the_last_network_is_remembered() -> None:
    compiled, first, second = CompiledNetwork(), Small(0), Small(1)
    once = compiled(first)
    assert compiled(first) == once
    assert compiled(second) != once


@pytest.mark.parametrize("mode", [True, "reduce-overhead"])
def test_options(mode: bool | str) -> None:
    expected = {"fullgraph": True, "dynamic": False} | ({} if mode is True else {"mode": mode})
    assert CompiledNetwork(mode).options == expected
    assert inferer(compile=False).compiled is None


def test_results_are_not_overwritten_by_the_next_call() -> None:
    # Where CUDA graphs are replayed, every call writes to the same memory; so does this backend.
    buffers: dict[Any, torch.Tensor] = {}

    def replaying(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        def run(*args: torch.Tensor) -> tuple[torch.Tensor, ...]:
            (result,) = graph(*args)
            return (buffers.setdefault(id(graph), torch.empty_like(result)).copy_(result),)

        return run

    network, image = Small(), image_of(2, 1, 24, 20)
    arguments = {"roi_size": 16, "max_batch": 2, "num_generations": 3}
    sampler = compiling(replaying, **arguments)
    assert torch.equal(sampler.generations(image, network), inferer(**arguments).generations(image, network))
    assert len(buffers) == 2
    timestep = torch.tensor([3])
    with torch.inference_mode():
        _, denoise = sampler.compiled(network)
        features = image_of(2, 4, 16, 16)
        found = [denoise(x, timestep, image_features=features) for x in image_of(2, 2, 1, 16, 16)]
        expected = [network(x, timestep, features) for x in image_of(2, 2, 1, 16, 16)]
    assert len(buffers) == 2
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_copies_compile_for_themselves() -> None:
    network, image = Small(), image_of(1, 1, 16, 16)
    sampler = compiling("eager", num_generations=2)
    expected = sampler(image, network)
    copies = [copy.deepcopy(sampler), copy.copy(sampler), pickle.loads(pickle.dumps(sampler))]
    for other in copies:
        assert other.compiled.options == sampler.compiled.options
        assert torch.equal(other(image, network), expected)
    assert copies[0].compiled._last is not sampler.compiled._last
    # The network itself is as it was: it can be copied and sent, too.
    assert torch.equal(copies[0](image, pickle.loads(pickle.dumps(network))), expected)


@pytest.mark.skipif(shutil.which("c++") is None, reason="the compiler of the CPU needs a C++ compiler")
def test_real_compilation() -> None:
    network, image = Small(), image_of(1, 1, 20, 20)
    arguments = {"roi_size": 16, "max_batch": 2, "num_inference_steps": 2}
    found = inferer(compile=True, **arguments)(image, network)
    torch.testing.assert_close(found, inferer(**arguments)(image, network), atol=1e-4, rtol=0)
