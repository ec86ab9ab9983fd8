# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from monai_segdiff import (
    RespacedDDIMScheduler,
    RespacedDDPMScheduler,
    RespacedDPMSolverScheduler,
    WindowPlan,
)
from monai_segdiff.inferers.generation_statistics import KeptGenerations, RunningStatistics, mask_to_probability
from monai_segdiff.inferers.image_sampler import ImageSampler
from monai_segdiff.inferers.mask_sampler import MaskSampler
from monai_segdiff.inferers.memory_probe import PeakMemory
from monai_segdiff.inferers.packed_network import PackedNetwork
from monai_segdiff.inferers.random_stream import random_stream
from monai_segdiff.networks.schedulers import RespacedScheduler

sys.path.insert(0, str(Path(__file__).parent))
from inferer_stand_ins import Oracle, Pointwise, StandIn, image_of, inferer, one_step_inferer, tiny_network  # noqa: E402

SCHEDULERS: list[tuple[type[RespacedScheduler], dict[str, Any]]] = [
    (RespacedDDPMScheduler, {"prediction_type": "sample"}),
    (RespacedDDIMScheduler, {"prediction_type": "epsilon"}),
    (RespacedDPMSolverScheduler, {"prediction_type": "sample"}),
]


def image_sampler(
    image: torch.Tensor, network: StandIn, plan: WindowPlan, scheduler: RespacedScheduler, generations: int, batch: int
) -> ImageSampler:
    padded = plan.pad(image)
    packed = PackedNetwork(network.encode_image, network, lambda window: plan.cut(padded, window), batch)
    return ImageSampler(
        MaskSampler(scheduler, 3, torch.device("cpu")), packed, plan, network.mask_channels, generations
    )


class Neighbours(Pointwise):
    """Each pixel depends on its neighbours inside the window, on the window's mean, and on the place inside it."""

    def mask(self, x: torch.Tensor, image: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        place = torch.linspace(-1, 1, x.shape[-1])
        mixed = 0.5 * x + 0.3 * x.roll(1, -1) + x.mean((2, 3), keepdim=True) + 0.2 * place
        return super().mask(mixed, image, timesteps)


@pytest.mark.parametrize(("make", "arguments"), SCHEDULERS)
@pytest.mark.parametrize("mode", ["gaussian", "constant"])
def test_joint_mode_equals_a_loop_by_hand(make: type[RespacedScheduler], arguments: dict[str, Any], mode: str) -> None:
    scheduler = make(100, **arguments)
    scheduler.set_timesteps(4)
    image, network = image_of(1, 2, 8, 13), Neighbours(2)
    plan = WindowPlan((8, 13), 8, overlap=0.25, mode=mode)
    assert [plan.origin(window) for window in range(len(plan.windows))] == [(0, 0), (0, 5)]
    found = image_sampler(image, network, plan, scheduler, 3, 2).joint(KeptGenerations)
    assert len(found) == 3
    # Two windows, of the columns 0 to 8 and 5 to 13, pixel by pixel.
    weights = plan.weights
    for generation, mask in enumerate(found):
        stream = random_stream(3, (generation, 0, 0))
        alone = scheduler.for_trajectory()
        x = torch.randn(1, 2, 8, 13, generator=stream)
        for timestep in alone.timesteps:
            left = network.mask(x[..., :8], image[..., :8], timestep)
            right = network.mask(x[..., 5:], image[..., 5:], timestep)
            output = torch.empty(1, 2, 8, 13)
            for column in range(13):
                if column < 5:
                    output[..., column] = left[..., column]
                elif column >= 8:
                    output[..., column] = right[..., column - 5]
                else:
                    first, second = weights[:, column], weights[:, column - 5]
                    both = left[..., column] * first + right[..., column - 5] * second
                    output[..., column] = both / (first + second)
            noise = torch.randn(1, 2, 8, 13, generator=stream) if alone.is_stochastic else None
            x, _ = alone.step(output, int(timestep), x, noise=noise)
        torch.testing.assert_close(mask, mask_to_probability(x), atol=2e-5, rtol=0)


@pytest.mark.parametrize("mode", ["gaussian", "constant"])
def test_independent_mode_equals_a_loop_by_hand(mode: str) -> None:
    scheduler = RespacedDDPMScheduler(100, prediction_type="sample")
    scheduler.set_timesteps(4)
    image, network = image_of(1, 2, 8, 13), Neighbours(2)
    plan = WindowPlan((8, 13), 8, overlap=0.25, mode=mode)
    mean, variance = image_sampler(image, network, plan, scheduler, 3, 2).independent(RunningStatistics)
    means, variances = [], []
    for origin in (0, 5):
        generations = []
        for generation in range(3):
            stream = random_stream(3, (generation, 0, origin))
            x = torch.randn(1, 2, 8, 8, generator=stream)
            for timestep in scheduler.timesteps:
                output = network.mask(x, image[..., origin : origin + 8], timestep)
                noise = torch.randn(1, 2, 8, 8, generator=stream)
                x, _ = scheduler.step(output, int(timestep), x, noise=noise)
            generations.append(mask_to_probability(x))
        means.append(torch.cat(generations).mean(0))
        variances.append(torch.cat(generations).var(0, correction=0))
    for found, (left, right) in ((mean, means), (variance, variances)):
        expected = torch.empty(1, 2, 8, 13)
        expected[..., :5], expected[..., 8:] = left[..., :5], right[..., 3:]
        first, second = plan.weights[:, 5:], plan.weights[:, :3]
        expected[..., 5:8] = (left[..., 5:] * first + right[..., :3] * second) / (first + second)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("make", "arguments"), SCHEDULERS)
@pytest.mark.parametrize(("size", "roi"), [((32, 20), 16), ((40, 28), (8, 16)), ((5, 30), 8)])
@pytest.mark.parametrize("overlap", [0.0, 0.5])
def test_joint_windows_of_a_pointwise_network_equal_the_whole_image(
    make: type[RespacedScheduler], arguments: dict[str, Any], size: tuple[int, int], roi: Any, overlap: float
) -> None:
    image, common = image_of(2, 1, *size), {"scheduler": make(100, **arguments), "num_inference_steps": 4}
    joint = inferer(roi_size=roi, overlap=overlap, window_mode="joint", **common)
    # One window as large as what the windows cover, and therefore with the same noise.
    whole = inferer(roi_size=WindowPlan(size, roi).padded_size, **common)
    found, expected = (sampler.generations(image, Pointwise(size_divisor=1)) for sampler in (joint, whole))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("roi_size", [None, 40])
def test_one_window_is_the_same_in_both_modes(roi_size: int | None) -> None:
    network, image = tiny_network(), image_of(2, 3, 13, 22)
    independent, joint = (inferer(roi_size=roi_size, window_mode=mode) for mode in ("independent", "joint"))
    assert torch.equal(joint.generations(image, network), independent.generations(image, network))
    found, expected = joint.statistics(image, network), independent.statistics(image, network)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("size", [(40, 28), (9, 50), (1, 1), (16, 16), (33, 17)])
@pytest.mark.parametrize("mode", ["gaussian", "constant"])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.6])
def test_an_oracle_gives_its_mask_back_in_joint_mode(size: tuple[int, int], mode: str, overlap: float) -> None:
    image = torch.where(image_of(2, 1, *size) > 0, 1.0, -1.0)
    result = inferer(roi_size=16, mode=mode, overlap=overlap, window_mode="joint")(image, Oracle())
    torch.testing.assert_close(result, (image + 1) / 2, atol=1e-6, rtol=0)


def test_volumes_in_joint_mode() -> None:
    image = torch.where(image_of(1, 2, 9, 12, 8) > 0, 1.0, -1.0)
    result = inferer(roi_size=8, window_mode="joint")(image, Oracle(2, spatial_dims=3))
    torch.testing.assert_close(result, (image + 1) / 2, atol=1e-6, rtol=0)


class Doubtful(StandIn):
    """An object that is there or not, as the noise on its marked pixel says."""

    def mask(self, x: torch.Tensor, image: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        there = (x * (image == 2)).sum((2, 3), keepdim=True) > 0
        return torch.where(there & (image > 0), 1.0, -1.0)


@pytest.mark.parametrize("steps", [1, 5])
def test_an_object_across_a_border_has_a_seam_only_without_joint_sampling(steps: int) -> None:
    # Two windows, of the columns 0 to 16 and 12 to 28; the object's marked pixel lies in both.
    image = torch.zeros(1, 1, 16, 28)
    image[..., 4:12, 6:22] = 1
    image[..., 8, 14] = 2
    jumps: dict[str, list[float]] = {"independent": [], "joint": []}
    for seed in range(12):
        for mode, found in jumps.items():
            sampler = one_step_inferer(
                roi_size=16, mode="constant", num_inference_steps=steps, window_mode=mode, seed=seed
            )
            inside = sampler(image, Doubtful())[..., 4:12, 6:22]
            # From one side of the border between the windows to the other.
            found.append((inside[..., 0] - inside[..., -1]).abs().max().item())
    assert max(jumps["joint"]) == 0
    # Windows on their own disagree in about every other draw, altogether.
    assert 2 <= sum(jump == 1 for jump in jumps["independent"]) <= 10
    assert set(jumps["independent"]) == {0.0, 1.0}


def test_joint_masks_of_a_generation_differ_by_generation_and_seed() -> None:
    image = torch.zeros(1, 1, 16, 28)
    one, two = inferer(roi_size=16, window_mode="joint").generations(image, Pointwise())
    assert not torch.equal(one, two)
    # No window sees the noise of another.
    assert not torch.equal(one[..., :12], one[..., 12:24])
    more = inferer(roi_size=16, window_mode="joint", num_generations=5).generations(image, Pointwise())
    assert torch.equal(more[:2], torch.stack([one, two]))
    other = inferer(roi_size=16, window_mode="joint", seed=1).generations(image, Pointwise())
    assert not torch.equal(other[0], one)


@pytest.mark.parametrize("window_mode", ["independent", "joint"])
def test_same_bits_for_any_batching(window_mode: str) -> None:
    image = image_of(3, 1, 20, 27)
    arguments = {"roi_size": 8, "num_generations": 5, "window_mode": window_mode}
    expected = inferer(max_batch=1, **arguments).statistics(image, Neighbours())
    singles = inferer(max_batch=1, **arguments).generations(image, Neighbours())
    for max_batch in (2, 3, 7, 16, 200):
        sampler = inferer(max_batch=max_batch, **arguments)
        found = sampler.statistics(image, Neighbours())
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
        assert torch.equal(sampler.generations(image, Neighbours()), singles)
        assert torch.equal(sampler(image[2:], Neighbours()), expected.mean[2:])


def test_joint_mode_with_a_real_network_does_not_depend_on_company() -> None:
    network, image = tiny_network(), image_of(2, 3, 24, 20)
    for max_batch in (1, 3, 4):
        arguments = {"roi_size": 16, "window_mode": "joint", "max_batch": max_batch}
        expected = inferer(**arguments).generations(image, network)
        assert torch.equal(inferer(num_generations=3, **arguments).generations(image, network)[:2], expected)
        assert torch.equal(inferer(**arguments).generations(image[1:], network), expected[:, 1:])


class Wide(Pointwise):
    """With features that are much larger than masks."""

    def encode_image(self, image: torch.Tensor) -> torch.Tensor:
        return image.repeat(1, 50, 1, 1)

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor, image_features: torch.Tensor) -> torch.Tensor:
        return self.mask(x, image_features[:, :1], timesteps)


def test_windows_that_are_done_leave_the_memory() -> None:
    sampler, peaks = inferer(roi_size=16, overlap=0.0, max_batch=2), []
    for windows in (2, 12):
        with PeakMemory() as memory:
            sampler(image_of(1, 1, 16, 16 * windows), Wide())
        peaks.append(memory.peak)
    # What grows with the image are the results, not the features.
    assert peaks[1] - peaks[0] < 10 * (5 * 4 * 16 * 16)


def test_rows_of_joint_mode() -> None:
    network = Oracle()
    arguments = {"roi_size": 16, "overlap": 0.0, "num_generations": 5, "num_inference_steps": 3, "max_batch": 2}
    inferer(window_mode="joint", **arguments)(torch.zeros(1, 1, 32, 32), network)
    # Two masks at a time, all four windows of them before the next step; then the fifth mask alone.
    assert network.timesteps == [[t] for t in (99, 50, 0) for _ in range(4)] * 2 + [
        [t] for t in (99, 50, 0) for _ in range(2)
    ]
    assert network.rows == [2] * len(network.timesteps)
    assert network.encoded == 4


class Constant:
    """Draws the number of the generation, in another range and with other channels than a mask."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.asked: list[tuple[list[int], list[tuple[int, ...]], tuple[int, ...]]] = []

    def __call__(self, predict: Any, keys: Sequence[Sequence[int]], shape: Sequence[int]) -> torch.Tensor:
        self.asked.append((list(predict.windows), [tuple(key) for key in keys], tuple(shape)))
        return torch.stack([torch.full((3, *shape[1:]), float(generation)) for generation, *_ in keys])

    def probability(self, masks: torch.Tensor) -> torch.Tensor:
        return masks / 100

    def blank(self, shape: Sequence[int]) -> torch.Tensor:
        return torch.zeros(*shape)


def test_any_sampler_of_generations_serves() -> None:
    plan, network, sampler = WindowPlan((8, 13), 8), Oracle(2), Constant()
    packed = PackedNetwork(network.encode_image, network, lambda window: torch.zeros(1, 2, 8, 8), 3)
    mean, variance = ImageSampler(sampler, packed, plan, 2, 2).independent(RunningStatistics)
    torch.testing.assert_close(mean, torch.full((1, 3, 8, 13), 0.005))
    torch.testing.assert_close(variance, torch.full((1, 3, 8, 13), 0.000025))
    # Two windows of two generations, three rows at a time; nothing but the sampler calls the network.
    assert sampler.asked == [
        ([0, 0, 1], [(0, 0, 0), (1, 0, 0), (0, 0, 5)], (2, 8, 8)),
        ([1], [(1, 0, 5)], (2, 8, 8)),
    ]
    assert network.encoded == len(network.rows) == 0
