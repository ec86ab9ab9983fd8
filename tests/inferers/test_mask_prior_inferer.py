# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.data import MetaTensor
from monai.inferers import SlidingWindowInferer
from torch import nn

from monai_segdiff import (
    CategoricalScheduler,
    MaskPriorUNet,
    RespacedDDPMScheduler,
    SplitStatistics,
    UncertaintyInferer,
)
from monai_segdiff.exceptions import DivergenceError
from monai_segdiff.inferers.random_stream import random_stream

sys.path.insert(0, str(Path(__file__).parent))
from inferer_stand_ins import (  # noqa: E402
    LabelStandIn,
    image_of,
    inferer,
    prior_inferer,
    tiny_mask_prior,
    tiny_network,
)

SCHEMES = [
    {},
    {"start": "base_prediction"},
    {"base_weight": 0.5, "include_background": False},
    {"scheduler": CategoricalScheduler(3, sampler="posterior")},
]


@pytest.fixture(scope="module")
def network() -> MaskPriorUNet:
    return tiny_mask_prior()


@pytest.mark.parametrize(
    ("start", "steps", "expected"),
    [
        ("noise", 0, []),
        ("noise", 1, [19]),
        ("noise", 2, [19, 0]),
        ("noise", 3, [19, 10, 0]),
        ("noise", 5, [19, 14, 10, 5, 0]),
        ("noise", 20, list(range(19, -1, -1))),
        ("base_prediction", 0, []),
        ("base_prediction", 1, [0]),
        ("base_prediction", 2, [10, 0]),
        ("base_prediction", 4, [14, 10, 5, 0]),
        ("base_prediction", 19, list(range(18, -1, -1))),
    ],
)
def test_timesteps(start: str, steps: int, expected: list[int]) -> None:
    network = LabelStandIn()
    sampler = prior_inferer(start=start, num_inference_steps=steps, num_generations=1)
    sampler(torch.zeros(1, 3, 8, 8), network)
    assert network.timesteps == [[timestep] for timestep in expected]
    assert sampler.num_calls == len(expected)


@pytest.mark.parametrize("steps", [1, 2])
def test_equals_a_loop_by_hand_in_every_window(network: MaskPriorUNet, steps: int) -> None:
    image = image_of(2, 1, 8, 20)
    sampler = prior_inferer(roi_size=(8, 10), overlap=0.0, num_inference_steps=steps, seed=4)
    found = sampler.generations(image, network)
    assert found.shape == (2, 2, 3, 8, 20)
    for generation in range(2):
        for row in range(2):
            for column in (0, 10):
                window = image[row, None, :, :, column : column + 10]
                stream = random_stream(4, (generation, 0, column))
                labels = (3 * torch.rand(1, 2, 8, 10, generator=stream)[:, 1:]).long()
                with torch.no_grad():
                    # The first prediction from pure noise is all there is of one step.
                    logits = network(labels, torch.tensor([19]), context=window)
                    if steps == 2:
                        noise = torch.rand(1, 2, 8, 10, generator=stream)
                        labels = logits.argmax(1, keepdim=True)
                        labels = torch.where(noise[:, :1] < 0.99999, labels, (3 * noise[:, 1:]).long())
                        logits = network(labels, torch.tensor([0]), context=window)
                expected = logits.softmax(1)[0]
                torch.testing.assert_close(
                    found[generation, row, :, :, column : column + 10], expected, atol=1e-6, rtol=0
                )


@pytest.mark.parametrize("size", [(24, 20), (9, 21), (5, 6)])
@pytest.mark.parametrize("mode", ["gaussian", "constant"])
@pytest.mark.parametrize("overlap", [0.0, 0.5])
def test_without_steps_equals_sliding_windows_of_the_base(
    network: MaskPriorUNet, size: tuple[int, int], mode: str, overlap: float
) -> None:
    image = image_of(2, 1, *size)
    windows: dict[str, Any] = {"roi_size": (8, 12), "overlap": overlap, "mode": mode, "padding_mode": "replicate"}
    expected = SlidingWindowInferer(**windows)(image, lambda window: network.base(window)[1].softmax(1))
    found = prior_inferer(num_inference_steps=0, num_generations=1, **windows)(image, network)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_a_prior_that_repeats_the_base_equals_its_sliding_windows() -> None:
    class Repeats(LabelStandIn):
        def mask(self, x: torch.Tensor, image: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
            return image

    image = image_of(2, 3, 13, 22)
    windows: dict[str, Any] = {"roi_size": 8, "overlap": 0.25, "mode": "gaussian", "padding_mode": "replicate"}
    expected = SlidingWindowInferer(**windows)(image, lambda window: window.softmax(1))
    for arguments in SCHEMES:
        found = prior_inferer(**(arguments | windows))(image, Repeats())
        torch.testing.assert_close(found, expected[:, -found.shape[1] :], atol=1e-6, rtol=0)


def test_half_the_weight_is_the_mean_of_base_and_prior(network: MaskPriorUNet) -> None:
    image = image_of(1, 1, 20, 10)
    prior, base, both = (
        prior_inferer(roi_size=12, **arguments)(image, network)
        for arguments in ({}, {"num_inference_steps": 0}, {"base_weight": 0.5})
    )
    torch.testing.assert_close(both, (prior + base) / 2, atol=1e-6, rtol=0)
    assert (prior - base).abs().max() > 0.05
    assert torch.allclose(prior_inferer(roi_size=12, base_weight=1.0)(image, network), base, atol=1e-6)


def test_the_base_prediction_stands_for_the_first(network: MaskPriorUNet) -> None:
    # Of one step, the last: nearly clean labels of the base.
    image = image_of(1, 1, 8, 12)
    found = prior_inferer(start="base_prediction", num_inference_steps=1)(image, network)
    with torch.no_grad():
        labels = network.base(image)[1].argmax(1, keepdim=True)
        expected = network(labels, torch.tensor([0]), context=image).softmax(1)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("arguments", SCHEMES[:2])
def test_without_background(network: MaskPriorUNet, arguments: dict[str, Any]) -> None:
    image, common = image_of(1, 1, 8, 12), {"roi_size": 8, "num_inference_steps": 2} | arguments
    whole, foreground = (prior_inferer(include_background=include, **common) for include in (True, False))
    assert torch.equal(foreground(image, network), whole(image, network)[:, 1:])
    assert torch.equal(foreground.generations(image, network), whole.generations(image, network)[:, :, 1:])
    assert torch.equal(foreground.trajectory(image, network), whole.trajectory(image, network)[:, :, 1:])


@pytest.mark.parametrize("arguments", [*SCHEMES, {"num_inference_steps": 0}])
def test_trajectory_ends_with_the_result(network: MaskPriorUNet, arguments: dict[str, Any]) -> None:
    image = image_of(2, 1, 8, 12)
    sampler = prior_inferer(**arguments)
    found = sampler.trajectory(image, network)
    expected = sampler(image, network)
    assert found.shape == (3 if sampler.num_calls else 1, *expected.shape)
    assert torch.equal(found[-1], expected)
    if arguments == {}:
        # All begin with the same noise at the last timestep: the first of three steps is the result of one.
        assert torch.equal(found[0], prior_inferer(num_inference_steps=1)(image, network))
        assert (found[0] - found[1]).abs().max() > 1e-3


def test_statistics_of_classes_that_exclude_each_other(network: MaskPriorUNet) -> None:
    image, sampler = image_of(2, 1, 8, 12), prior_inferer(num_generations=4)
    single, found = sampler.generations(image, network), sampler.statistics(image, network)
    mean = single.mean(0)
    entropy, entropies = -(mean * mean.log()).sum(1, keepdim=True), -(single * single.log()).sum(2, keepdim=True)
    for part, expected in zip(
        found, (mean, single.var(0, correction=0), entropy, entropy - entropies.mean(0)), strict=True
    ):
        torch.testing.assert_close(part, expected, atol=1e-6, rtol=0)
    assert torch.equal(found.mean, sampler(image, network))
    torch.testing.assert_close(found.mean.sum(1), torch.ones(2, 8, 12), atol=1e-6, rtol=0)
    assert found.entropy.max() > math.log(2)


class Echo(LabelStandIn):
    """As sure of what it sees as can be."""

    def mask(self, x: torch.Tensor, image: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        return 200 * torch.nn.functional.one_hot(x[:, 0], 3).movedim(-1, 1).float()


@pytest.mark.parametrize("windows", [{}, {"roi_size": 4, "overlap": 0.5}])
def test_generations_that_disagree_have_all_the_information(windows: dict[str, Any]) -> None:
    sampler = prior_inferer(num_inference_steps=1, num_generations=60, **windows)
    found = sampler.statistics(torch.zeros(1, 3, 8, 8), Echo())
    assert 1 < found.entropy.mean() < found.entropy.max() <= math.log(3) + 1e-6
    if not windows:
        torch.testing.assert_close(found.mutual_information, found.entropy, atol=1e-6, rtol=0)
    assert found.mutual_information.max() > 1
    assert found.mutual_information.min() > 0.6


def test_statistics_without_background_are_those_of_masks(network: MaskPriorUNet) -> None:
    image, sampler = image_of(2, 1, 8, 12), prior_inferer(num_generations=3, include_background=False)
    single, found = sampler.generations(image, network), sampler.statistics(image, network)
    assert {part.shape for part in found} == {(2, 2, 8, 12)}
    mean = single.mean(0)
    entropy = -(mean * mean.log() + (1 - mean) * (1 - mean).log())
    entropies = -(single * single.log() + (1 - single) * (1 - single).log())
    torch.testing.assert_close(found.entropy, entropy, atol=1e-6, rtol=0)
    torch.testing.assert_close(found.mutual_information, entropy - entropies.mean(0), atol=1e-6, rtol=0)


@pytest.mark.parametrize("include_background", [True, False])
def test_uncertainty_as_one_result(network: MaskPriorUNet, include_background: bool) -> None:
    image, sampler = image_of(1, 1, 8, 12), prior_inferer(include_background=include_background)
    found = UncertaintyInferer(sampler)(image, network)[0]
    statistics = sampler.statistics(image, network)
    assert len(found) == (3 + 3 + 1 if include_background else 3 * 2)
    parts = SplitStatistics(categorical=include_background)(found)
    expected = (statistics.mean, statistics.standard_deviation, *statistics[2:])
    assert all(torch.equal(part, whole[0]) for part, whole in zip(parts, expected, strict=True))


@pytest.mark.parametrize("arguments", SCHEMES)
@pytest.mark.parametrize("max_batch", [1, 3])
def test_same_bits_for_any_packing(network: MaskPriorUNet, arguments: dict[str, Any], max_batch: int) -> None:
    image = image_of(2, 1, 8, 12)
    arguments = {"roi_size": 8, "max_batch": max_batch, "num_inference_steps": 2} | arguments
    sampler = prior_inferer(**arguments)
    expected = sampler(image, network)
    # The same image alone, or at another place in the batch.
    assert torch.equal(sampler(image[1:], network), expected[1:])
    assert torch.equal(sampler(image.flip(0), network), expected.flip(0))
    # The same generations among more of them, so that rows meet in other batches.
    more = prior_inferer(num_generations=5, **arguments).generations(image, network)
    assert torch.equal(more[:2], sampler.generations(image, network))
    assert torch.allclose(prior_inferer(**(arguments | {"max_batch": 2}))(image, network), expected, atol=1e-5)


def test_windows_generations_and_seeds_have_their_own_noise(network: MaskPriorUNet) -> None:
    image = torch.zeros(1, 1, 8, 16)
    one, two = prior_inferer(roi_size=8, overlap=0.0).generations(image, network)
    assert not torch.equal(one, two)
    assert not torch.equal(one[..., :8], one[..., 8:])
    other = prior_inferer(roi_size=8, overlap=0.0, seed=1).generations(image, network)
    assert not torch.equal(other[0], one)


@pytest.mark.parametrize("arguments", SCHEMES)
def test_threads_give_the_serial_bits(network: MaskPriorUNet, arguments: dict[str, Any]) -> None:
    sampler = prior_inferer(max_batch=2, **arguments)
    images = [image_of(1, 1, 8, 12, seed=i) for i in range(8)]
    serial = [sampler(image, network) for image in images]
    results: list[torch.Tensor | None] = [None] * len(images)
    barrier = threading.Barrier(len(images), timeout=60)

    def work(i: int) -> None:
        barrier.wait()
        results[i] = sampler(images[i], network)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(images))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(expected, result) for expected, result in zip(serial, results, strict=True))


@pytest.mark.parametrize("arguments", SCHEMES)
def test_global_random_state_scheduler_and_input_are_left_alone(
    network: MaskPriorUNet, arguments: dict[str, Any]
) -> None:
    scheduler = arguments.get("scheduler", CategoricalScheduler(3))
    sampler = prior_inferer(**(arguments | {"scheduler": scheduler}))
    image = image_of(1, 1, 8, 12)
    before, state = image.clone(), torch.get_rng_state()
    first = sampler(image, network)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(123)
    assert torch.equal(sampler(image, network), first)
    assert torch.equal(image, before)
    assert scheduler.timesteps.tolist() == list(range(19, -1, -1))
    # Nor does the inferer see what becomes of the scheduler.
    scheduler.set_timesteps(7)
    assert torch.equal(sampler(image, network), first)
    scheduler.set_timesteps(20)


@pytest.mark.parametrize("steps", [0, 1, 3])
@pytest.mark.parametrize("arguments", [{}, {"base_weight": 0.5}, {"start": "base_prediction"}])
@pytest.mark.parametrize("max_batch", [1, 5])
def test_the_base_runs_once_per_window(steps: int, arguments: dict[str, Any], max_batch: int) -> None:
    network = tiny_mask_prior()
    base, denoiser = [], []
    network.base.network.register_forward_hook(lambda module, args, output: base.append(len(output)))
    network.unet.register_forward_hook(lambda module, args, output: denoiser.append(len(output)))
    sampler = prior_inferer(roi_size=8, overlap=0.0, num_inference_steps=steps, max_batch=max_batch, **arguments)
    sampler(image_of(2, 1, 8, 24), network)
    assert base == [1] * 6
    # Of the 6 rows of an image two calls of 5, the second filled up.
    assert denoiser == [max_batch] * (2 * math.ceil(3 * 2 / max_batch) * steps)


@pytest.mark.parametrize("stride", [1, 2])
def test_memory_limit(stride: int) -> None:
    network, image = tiny_mask_prior(latent_stride=stride), image_of(1, 1, 8, 12)
    found = prior_inferer(memory_limit=10**9, num_inference_steps=2)(image, network)
    assert torch.equal(found, prior_inferer(max_batch=64, num_inference_steps=2)(image, network))
    with pytest.raises(ValueError, match="memory_limit=1 bytes is too small"):
        prior_inferer(memory_limit=1)(image, network)


@pytest.mark.parametrize(
    ("dims", "changes", "size"),
    [
        (2, {}, (13, 9)),
        (2, {"latent_stride": 2}, (13, 21)),
        (2, {"patch_size": 2}, (13, 21)),
        (2, {"condition": "prediction"}, (3, 17)),
        (2, {"condition": "both", "latent_stride": 2, "patch_size": 2}, (7, 17)),
        (2, {"num_classes": 2}, (13, 9)),
        (3, {}, (5, 9, 3)),
        (3, {"latent_stride": 2}, (8, 9, 3)),
    ],
)
@pytest.mark.parametrize(("roi_size", "start"), [(8, "noise"), (None, "base_prediction")])
def test_any_size_and_network(
    dims: int, changes: dict[str, Any], size: tuple[int, ...], roi_size: int | None, start: str
) -> None:
    network = tiny_mask_prior(dims, **changes)
    common: dict[str, Any] = {"num_generations": 1, "num_inference_steps": 2, "base_weight": 0.3}
    scheduler = CategoricalScheduler(network.num_classes)
    found = prior_inferer(scheduler=scheduler, roi_size=roi_size, start=start, **common)(image_of(1, 1, *size), network)
    assert found.shape == (1, network.num_classes, *size)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.sum(1), torch.ones(1, *size), atol=1e-5, rtol=0)
    assert found.std() > 0.01


def test_an_absorbing_kernel() -> None:
    scheduler, image = CategoricalScheduler(3, kernel="absorbing"), image_of(2, 1, 13, 9)
    found = prior_inferer(scheduler=scheduler, roi_size=8)(image, tiny_mask_prior(num_states=4))
    torch.testing.assert_close(found.sum(1), torch.ones(2, 13, 9), atol=1e-6, rtol=0)


@pytest.mark.parametrize("arguments", [*SCHEMES, {"num_inference_steps": 0}])
def test_amp(network: MaskPriorUNet, arguments: dict[str, Any]) -> None:
    image, sampler = image_of(1, 1, 8, 12), prior_inferer(amp=True, num_generations=3, **arguments)
    types = set()
    layers = (network.classifier[-1], network.base.network)
    handles = [
        layer.register_forward_hook(lambda module, args, output: types.add(output.dtype))  # type: ignore[func-returns-value]
        for layer in layers
    ]
    found = sampler(image, network)
    assert types == {torch.bfloat16}
    for handle in handles:
        handle.remove()
    assert found.dtype == torch.float32
    # More digits than bfloat16 has: labels are drawn, and results averaged, in float32.
    assert not torch.equal(found, found.bfloat16().float())
    if "num_inference_steps" in arguments:
        expected = prior_inferer(**arguments)(image, network)
        assert 0 < (found - expected).abs().max() < 0.1


def test_meta_data_are_kept(network: MaskPriorUNet) -> None:
    image = MetaTensor(image_of(1, 1, 14, 10), affine=torch.diag(torch.tensor([0.5, 2, 3, 1])))
    image.meta["filename_or_obj"] = "a.nii.gz"
    sampler, stand_in = prior_inferer(roi_size=8), LabelStandIn()
    results = {"call": sampler(image, network), "trajectory": sampler.trajectory(image, network)}
    results |= sampler.statistics(image, network)._asdict()
    for name, result in results.items():
        assert isinstance(result, MetaTensor), name
        assert result.meta["filename_or_obj"] == "a.nii.gz"
        assert torch.equal(result.affine, image.affine)
    assert torch.equal(results["call"].as_tensor(), sampler(image.as_tensor(), network))
    results["call"].meta["filename_or_obj"] = "b.nii.gz"
    assert image.meta["filename_or_obj"] == "a.nii.gz"
    assert not results["call"].is_inference()
    # Operations on MetaTensors are slow: none of them inside.
    sampler(MetaTensor(torch.zeros(1, 3, 8, 8)), stand_in)
    assert stand_in.types == {torch.Tensor}


def test_wrapped_network_is_unwrapped(network: MaskPriorUNet) -> None:
    image = image_of(1, 1, 8, 12)
    wrapped = nn.DataParallel(network)
    assert torch.equal(prior_inferer()(image, wrapped), prior_inferer()(image, network))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.zeros(1, 3, 8, 8), r"\[B, 1, 2 spatial sizes\], found shape \[1, 3, 8, 8\]"),
        (torch.zeros(1, 1, 8, 8, 8), r"found shape \[1, 1, 8, 8, 8\]"),
        (torch.zeros(1, 1, 0, 8), "non-empty image"),
        (torch.full((1, 1, 8, 8), float("nan")), "Expected finite values, found NaN or infinity"),
    ],
)
@pytest.mark.parametrize("steps", [0, 2])
def test_bad_images(network: MaskPriorUNet, bad: torch.Tensor, message: str, steps: int) -> None:
    with pytest.raises(ValueError, match=message):
        prior_inferer(num_inference_steps=steps)(bad, network)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"scheduler": RespacedDDPMScheduler(100)}, TypeError, "CategoricalScheduler, found RespacedDDPMScheduler"),
        ({"base_weight": -0.1}, ValueError, r"base_weight must lie in \[0, 1\], found -0.1"),
        ({"base_weight": 1.5}, ValueError, r"base_weight must lie in \[0, 1\], found 1.5"),
        ({"base_weight": float("nan")}, ValueError, r"base_weight must lie in \[0, 1\], found nan"),
        ({"start": "prediction"}, ValueError, "prediction"),
        ({"num_inference_steps": -1}, ValueError, "must lie in 0..20 with start=noise, found -1"),
        ({"num_inference_steps": 21}, ValueError, "must lie in 0..20 with start=noise, found 21"),
        (
            {"num_inference_steps": 20, "start": "base_prediction"},
            ValueError,
            "must lie in 0..19 with start=base_prediction, found 20",
        ),
        ({"num_generations": 0}, ValueError, "num_generations must be at least 1, found 0"),
        ({"max_batch": 2, "memory_limit": 9}, ValueError, "Give max_batch or memory_limit"),
        ({"seed": -1}, ValueError, "seed must be at least 0, found -1"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        prior_inferer(**arguments)


@pytest.mark.parametrize("steps", [0, 1])
def test_networks_of_another_kind_are_refused(steps: int) -> None:
    sampler = prior_inferer(num_inference_steps=steps)
    with pytest.raises(TypeError, match="network must be a MaskPriorUNet, found SegDiffUNet"):
        sampler(torch.zeros(1, 1, 8, 8), tiny_network())
    with pytest.raises(TypeError, match="encode_image.*found Conv2d"):
        sampler(torch.zeros(1, 1, 8, 8), nn.Conv2d(1, 3, 1))


def test_gaussian_inferers_refuse_a_mask_prior(network: MaskPriorUNet) -> None:
    with pytest.raises(TypeError, match="network must predict masks, found MaskPriorUNet: use MaskPriorInferer"):
        inferer()(torch.zeros(1, 1, 8, 8), network)


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        (CategoricalScheduler(2), "network has 3 classes, expected the scheduler's 2"),
        (CategoricalScheduler(4), "network has 3 classes, expected the scheduler's 4"),
        (
            CategoricalScheduler(3, kernel="absorbing"),
            "network embeds 3 states, expected the scheduler's 4: give num_states",
        ),
    ],
)
def test_scheduler_and_network_must_fit(network: MaskPriorUNet, scheduler: CategoricalScheduler, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prior_inferer(scheduler=scheduler, num_inference_steps=1)(torch.zeros(1, 1, 8, 8), network)


def test_active_dropout_is_refused() -> None:
    network, image = tiny_mask_prior(dropout=0.5), image_of(1, 1, 8, 12)
    assert torch.equal(prior_inferer()(image, network), prior_inferer()(image, network))
    with pytest.raises(ValueError, match="eval mode"):
        prior_inferer()(image, network.train())


@pytest.mark.parametrize(
    ("layer", "arguments"),
    [
        ("classifier", {}),
        ("projection", {}),
        ("base", {"num_inference_steps": 0}),
        ("base", {"start": "base_prediction"}),
        ("base", {"base_weight": 0.5}),
    ],
)
def test_networks_that_return_nan_are_refused(layer: str, arguments: dict[str, Any]) -> None:
    network = tiny_mask_prior()
    with torch.no_grad():
        list(getattr(network, layer).parameters())[-1].fill_(float("nan"))
    with pytest.raises(DivergenceError, match="found NaN"):
        prior_inferer(**arguments)(image_of(1, 1, 8, 12), network)


class Hiding(LabelStandIn):
    """Damaged in the middle step alone, where the labels made of its prediction do not show it."""

    def mask(self, x: torch.Tensor, image: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        return torch.full_like(image, float("nan")) if timesteps == 10 else image


def test_nan_on_the_way_is_refused() -> None:
    image = torch.zeros(1, 3, 8, 8)
    prior_inferer(num_inference_steps=2)(image, Hiding())
    with pytest.raises(DivergenceError, match="found NaN"):
        prior_inferer(num_inference_steps=3)(image, Hiding())


@pytest.mark.parametrize("steps", [0, 3])
def test_progress_counts_calls(steps: int, capsys: pytest.CaptureFixture[str]) -> None:
    sampler = prior_inferer(roi_size=8, overlap=0.0, num_inference_steps=steps, num_generations=3, progress=True)
    sampler(torch.zeros(2, 3, 16, 8), LabelStandIn())
    assert (f"{2 * 2 * 3 * steps}/{2 * 2 * 3 * steps}" if steps else "0it") in capsys.readouterr().err
