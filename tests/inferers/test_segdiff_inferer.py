# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.data import MetaTensor, decollate_batch, list_data_collate
from monai.networks.schedulers import DDPMScheduler
from torch import nn

from monai_segdiff import (
    GenerationStopping,
    RespacedDDIMScheduler,
    RespacedDDPMScheduler,
    RespacedDPMSolverScheduler,
    SegDiffUNet,
)
from monai_segdiff.exceptions import DivergenceError
from monai_segdiff.inferers.memory_probe import PeakMemory

sys.path.insert(0, str(Path(__file__).parent))
from inferer_stand_ins import Oracle, Pointwise, image_of, inferer, tiny_network  # noqa: E402


@pytest.fixture(scope="module")
def network() -> SegDiffUNet:
    return tiny_network()


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    return image_of(2, 3, 40, 28)


@pytest.mark.parametrize("stochastic", [True, False])
def test_same_bits_for_any_batching(network: SegDiffUNet, stochastic: bool) -> None:
    image = image_of(2, 3, 24, 20)
    arguments: dict[str, Any] = {"roi_size": 16, "num_generations": 3, "num_inference_steps": 2}
    if not stochastic:
        arguments["scheduler"] = RespacedDDIMScheduler(100, prediction_type="sample")
    reference = inferer(**arguments)(image, network)
    for max_batch in (1, 2, 7):
        sampler = inferer(max_batch=max_batch, **arguments)
        expected = sampler(image, network)
        assert torch.allclose(expected, reference, atol=1e-5)
        # The same image alone, or at another place in the batch.
        assert torch.equal(sampler(image[1:], network), expected[1:])
        assert torch.equal(sampler(image.flip(0), network), expected.flip(0))
        # The same generations among more of them, so that rows meet in other batches.
        more = inferer(max_batch=max_batch, **(arguments | {"num_generations": 5})).generations(image, network)
        assert torch.equal(more[:3], sampler.generations(image, network))


def test_encoding_once_equals_encoding_at_every_step(network: SegDiffUNet, image: torch.Tensor) -> None:
    arguments = {"roi_size": 16, "num_generations": 2, "num_inference_steps": 4}
    cached = inferer(**arguments)(image, network)
    assert torch.equal(inferer(cache_image_features=False, **arguments)(image, network), cached)


@pytest.mark.parametrize("generations", [1, 5])
@pytest.mark.parametrize("steps", [1, 4])
def test_the_image_is_encoded_once_per_window(generations: int, steps: int) -> None:
    network = Oracle()
    image = torch.zeros(1, 1, 32, 32)
    inferer(roi_size=16, overlap=0.0, num_generations=generations, num_inference_steps=steps)(image, network)
    assert network.encoded == 4
    assert network.rows == [1] * (4 * generations * steps)
    assert all(len(timesteps) == 1 for timesteps in network.timesteps)
    network = Oracle()
    uncached = inferer(
        roi_size=16, overlap=0.0, num_generations=generations, num_inference_steps=steps, cache_image_features=False
    )
    uncached(image, network)
    # At every step, in every row: what the released code pays.
    assert network.encoded == 4 * generations * steps


def test_rows_are_packed_up_to_max_batch() -> None:
    network = Oracle()
    inferer(roi_size=16, overlap=0.0, max_batch=6, num_inference_steps=1)(torch.zeros(1, 1, 32, 32), network)
    # 4 windows x 2 generations = 8 rows, in 2 calls of 6, the second filled up.
    assert network.rows == [6, 6]


@pytest.mark.parametrize("size", [(40, 28), (9, 50), (1, 1), (16, 16), (33, 17)])
@pytest.mark.parametrize("mode", ["gaussian", "constant"])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.6])
def test_an_oracle_gives_its_mask_back_at_any_size(size: tuple[int, int], mode: str, overlap: float) -> None:
    mask = (torch.rand(2, 1, *size, generator=torch.Generator().manual_seed(0)) > 0.5).float()
    result = inferer(roi_size=16, mode=mode, overlap=overlap)(2 * mask - 1, Oracle())
    assert result.shape == mask.shape
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, mask, atol=1e-6, rtol=0)


def test_whole_image_as_one_window_is_padded_for_the_levels(network: SegDiffUNet) -> None:
    result = inferer(roi_size=None)(image_of(1, 3, 13, 22), network)
    assert result.shape == (1, 1, 13, 22)
    assert 0 <= result.min() <= result.max() <= 1


def test_volumes_and_several_classes() -> None:
    network = tiny_network(3, image_channels=1, mask_channels=2)
    result = inferer(roi_size=(8, 8, 8))(image_of(1, 1, 9, 12, 8), network)
    assert result.shape == (1, 2, 9, 12, 8)


def test_windows_and_generations_have_their_own_noise(network: SegDiffUNet) -> None:
    image = torch.zeros(1, 3, 32, 16)
    one, two = inferer(roi_size=16, overlap=0.0).generations(image, network)
    assert not torch.equal(one, two)
    assert not torch.equal(one[..., :16, :], one[..., 16:, :])
    alone = inferer(roi_size=16, overlap=0.0, num_generations=1)
    assert torch.equal(alone.generations(image, network)[0], one)
    other = inferer(roi_size=16, overlap=0.0, seed=1).generations(image, network)
    assert not torch.equal(other[0], one)


def test_mean_is_that_of_clamped_generations(network: SegDiffUNet, image: torch.Tensor) -> None:
    scheduler = RespacedDDPMScheduler(100, prediction_type="sample")
    sampler = inferer(scheduler=scheduler, num_generations=4)
    generations = sampler.generations(image, network)
    assert generations.shape == (4, 2, 1, 40, 28)
    assert (generations == 0).any() or (generations == 1).any()
    torch.testing.assert_close(sampler(image, network), generations.mean(0), atol=1e-6, rtol=0)
    statistics = sampler.statistics(image, network)
    torch.testing.assert_close(statistics.mean, generations.mean(0), atol=1e-6, rtol=0)
    torch.testing.assert_close(statistics.variance, generations.var(0, correction=0), atol=1e-6, rtol=0)
    mean = generations.mean(0).clamp(1e-7, 1 - 1e-7)
    entropy = -(mean * mean.log() + (1 - mean) * (1 - mean).log())
    torch.testing.assert_close(statistics.entropy, entropy, atol=1e-5, rtol=0)
    single = generations.clamp(1e-7, 1 - 1e-7)
    expected = (entropy + (single * single.log() + (1 - single) * (1 - single).log()).mean(0)).clamp(min=0)
    torch.testing.assert_close(statistics.mutual_information, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("window_mode", ["independent", "joint"])
def test_trajectory_ends_with_the_result(network: SegDiffUNet, image: torch.Tensor, window_mode: str) -> None:
    arguments = {"window_mode": window_mode, "roi_size": 16, "num_inference_steps": 3, "num_generations": 2}
    sampler = inferer(**arguments)
    found = sampler.trajectory(image, network)
    assert found.shape == (3, 2, 1, 40, 28)
    assert torch.equal(found[-1], sampler(image, network))
    assert not torch.allclose(found[0], found[1], atol=1e-3)
    # All begin with the same noise at the last timestep: what the first step of three predicts is the mask of one step.
    scheduler = RespacedDDIMScheduler(100, prediction_type="sample", timestep_spacing="trailing")
    several, one = (inferer(**(arguments | {"scheduler": scheduler, "num_inference_steps": n})) for n in (3, 1))
    first, end = several.trajectory(image, network)[0], one(image, network)
    assert torch.allclose(first, end, atol=1e-6)


def test_trajectory_of_an_oracle_is_its_mask_at_every_step() -> None:
    image = image_of(1, 2, 21, 30).sign()
    found = inferer(roi_size=16, num_inference_steps=4).trajectory(image, Oracle(channels=2))
    assert torch.equal(found, ((image + 1) / 2).expand(4, *image.shape))


def test_global_random_state_scheduler_and_input_are_left_alone(network: SegDiffUNet, image: torch.Tensor) -> None:
    scheduler = RespacedDDPMScheduler(100, prediction_type="sample")
    sampler, before, state = inferer(scheduler=scheduler), image.clone(), torch.get_rng_state()
    first = sampler(image, network)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(123)
    assert torch.equal(sampler(image, network), first)
    assert scheduler.timesteps.tolist() == list(range(99, -1, -1))
    assert torch.equal(image, before)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"window_mode": "joint", "max_batch": 3},
        {"stopping": GenerationStopping(), "num_generations": 3},
        {"scheduler": RespacedDPMSolverScheduler(100, prediction_type="sample"), "num_inference_steps": 4},
        {"memory_limit": 500_000},
    ],
)
def test_threads_give_the_serial_bits(network: SegDiffUNet, arguments: dict[str, Any]) -> None:
    sampler = inferer(**({"roi_size": 16, "overlap": 0.0} | arguments))
    images = [image_of(1, 3, 24, 16, seed=i) for i in range(8)]
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


@pytest.mark.parametrize("arguments", [{}, {"window_mode": "joint"}, {"stopping": GenerationStopping()}])
def test_images_of_a_batch_do_not_see_each_other(network: SegDiffUNet, arguments: dict[str, Any]) -> None:
    image = image_of(3, 3, 24, 20)
    sampler = inferer(roi_size=16, max_batch=3, **arguments)
    together = sampler.statistics(image, network)
    for i in range(3):
        alone = sampler.statistics(image[i, None], network)
        assert all(torch.equal(one, several[i, None]) for one, several in zip(alone, together, strict=True))


@pytest.mark.parametrize(
    "arguments", [{}, {"window_mode": "joint"}, {"stopping": GenerationStopping()}, {"cache_image_features": False}]
)
def test_memory_does_not_grow_with_the_generations(arguments: dict[str, Any]) -> None:
    image = image_of(1, 1, 24, 16)
    peaks = []
    for generations, max_batch in ((4, 2), (32, 2), (32, 16)):
        sampler = inferer(roi_size=16, num_generations=generations, max_batch=max_batch, **arguments)
        with PeakMemory() as memory:
            sampler(image, Pointwise())
        peaks.append(memory.peak)
    assert peaks[0] == peaks[1] < peaks[2]


@pytest.mark.parametrize("kind", [torch.uint8, torch.int64, torch.bool, torch.float16, torch.bfloat16, torch.float64])
def test_any_input_type_gives_float32(network: SegDiffUNet, kind: torch.dtype) -> None:
    image = torch.randint(0, 255, (1, 3, 16, 16), generator=torch.Generator().manual_seed(0)).to(kind)
    result = inferer()(image, network)
    assert result.dtype == torch.float32
    assert torch.equal(result, inferer()(image.float(), network))


def meta_image(name: str, seed: int = 0, size: int = 16) -> MetaTensor:
    affine = torch.diag(torch.tensor([0.5, 2.0 + seed, 3.0, 1.0], dtype=torch.float64))
    return MetaTensor(image_of(1, size, size, seed=seed), affine=affine, meta={"filename_or_obj": name})


@pytest.mark.parametrize("window_mode", ["independent", "joint"])
def test_meta_data_are_kept(window_mode: str) -> None:
    image, network = meta_image("a.png", size=24)[None], Pointwise()
    sampler = inferer(roi_size=16, window_mode=window_mode)
    expected = sampler.statistics(image.as_tensor(), Pointwise())
    results = {"call": sampler(image, network), "generations": sampler.generations(image, network)}
    results |= sampler.statistics(image, network)._asdict()
    for name, result in results.items():
        assert isinstance(result, MetaTensor), name
        assert result.meta["filename_or_obj"] == "a.png"
        assert torch.equal(result.affine, image.affine)
    assert torch.equal(results["call"].as_tensor(), expected.mean)
    # Operations on MetaTensors are slow: none of them inside.
    assert network.types == {torch.Tensor}


def test_meta_data_of_the_result_are_its_own() -> None:
    image = meta_image("a.png")[None]
    result = inferer()(image, Pointwise())
    result.meta["filename_or_obj"] = "b.png"
    result.applied_operations.append({"class": "Flip"})
    result.affine = torch.eye(4)
    assert image.meta["filename_or_obj"] == "a.png"
    assert image.applied_operations == []
    assert image.affine[0, 0] == 0.5


def test_collated_images_are_taken_apart_again() -> None:
    images = [meta_image(f"{seed}.png", seed) for seed in range(2)]
    batch = list_data_collate([{"image": image} for image in images])
    batch["pred"] = inferer()(batch["image"], Pointwise())
    for seed, item in enumerate(decollate_batch(batch)):
        assert item["pred"].shape == (1, 16, 16)
        assert item["pred"].meta["filename_or_obj"] == f"{seed}.png"
        assert torch.equal(item["pred"].affine, images[seed].affine)


@pytest.mark.parametrize("window_mode", ["independent", "joint"])
@pytest.mark.parametrize("roi_size", [16, None])
def test_results_can_be_changed_in_place(window_mode: str, roi_size: int | None) -> None:
    image, sampler = image_of(1, 1, 24, 20), inferer(roi_size=roi_size, window_mode=window_mode)
    network = Pointwise()
    results = [sampler(image, network), sampler.generations(image, network), *sampler.statistics(image, network)]
    for result in results:
        assert not result.is_inference()
        result.mul_(2).add_(1)
        # And be a part of a loss.
        (result * torch.ones(1, requires_grad=True)).sum().backward()


class Precision:
    """Notes in which precision a network computes."""

    def __init__(self, network: SegDiffUNet) -> None:
        self.types: set[torch.dtype] = set()
        for module in (network.image_encoder.conv_last, network.mask_encoder, network.unet.out[-1]):
            module.register_forward_hook(lambda module, args, output: self.types.add(output.dtype))


@pytest.mark.parametrize("window_mode", ["independent", "joint"])
def test_amp(window_mode: str) -> None:
    network, image = tiny_network(), image_of(1, 3, 24, 16)
    arguments = {"roi_size": 16, "window_mode": window_mode, "num_generations": 3}
    expected = inferer(**arguments)(image, network)
    precision = Precision(network)
    found = inferer(amp=True, **arguments)(image, network)
    assert precision.types == {torch.bfloat16}
    assert found.dtype == torch.float32
    assert 0 < (found - expected).abs().max() < 0.1
    # More digits than bfloat16 has: blended and averaged in float32.
    assert not torch.equal(found, found.bfloat16().float())
    assert not torch.is_autocast_enabled("cpu")


def test_autocast_of_the_caller_stays() -> None:
    network, image = tiny_network(), image_of(1, 3, 16, 16)
    expected, with_amp = inferer()(image, network), inferer(amp=True)(image, network)
    precision = Precision(network)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = inferer()(image, network)
        assert precision.types == {torch.bfloat16}
        # What was cast inside inference mode is not used for training afterwards.
        network(image[:, :1], torch.tensor([3]), context=image).float().mean().backward()
    assert torch.equal(result, with_amp)
    precision.types.clear()
    assert torch.equal(inferer()(image, network), expected)
    assert precision.types == {torch.float32}


@pytest.mark.parametrize("window_mode", ["independent", "joint"])
@pytest.mark.parametrize("rows", [{"max_batch": 1}, {"max_batch": 5}, {"memory_limit": 10**6}])
def test_progress_counts_rows(window_mode: str, rows: dict[str, int], capsys: pytest.CaptureFixture[str]) -> None:
    sampler = inferer(roi_size=16, overlap=0.0, window_mode=window_mode, num_generations=3, progress=True, **rows)
    sampler(torch.zeros(2, 1, 32, 16), Pointwise())
    # Images x windows x generations x steps; neither the rows that fill up a call nor the probe.
    assert "100%" in (shown := capsys.readouterr().err)
    assert f"{2 * 2 * 3 * 3}/{2 * 2 * 3 * 3}" in shown
    inferer()(torch.zeros(1, 1, 16, 16), Pointwise())
    assert capsys.readouterr().err == ""


def test_wrapped_network_is_unwrapped(network: SegDiffUNet, image: torch.Tensor) -> None:
    wrapped = nn.DataParallel(network)
    assert torch.equal(inferer()(image, wrapped), inferer()(image, network))


def test_engine_arguments_are_ignored(network: SegDiffUNet, image: torch.Tensor) -> None:
    assert torch.equal(inferer()(image, network, "extra", condition=None), inferer()(image, network))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.zeros(1, 4, 16, 16), r"\[B, 3, 2 spatial sizes\], found shape \[1, 4, 16, 16\]"),
        (torch.zeros(3, 16, 16), r"found shape \[3, 16, 16\]"),
        (torch.zeros(1, 3, 16, 16, 16), r"found shape \[1, 3, 16, 16, 16\]"),
        (torch.zeros(1, 3, 0, 16), "non-empty image"),
        (torch.full((1, 3, 16, 16), float("nan")), "Expected finite values, found NaN or infinity"),
        (torch.full((1, 3, 16, 16), float("inf")), "Expected finite values, found NaN or infinity"),
    ],
)
def test_bad_images(network: SegDiffUNet, bad: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        inferer()(bad, network)


def test_errors_name_the_file(network: SegDiffUNet) -> None:
    image = MetaTensor(torch.full((1, 3, 16, 16), float("nan")), meta={"filename_or_obj": "slide_7.tif"})
    with pytest.raises(ValueError, match=r"slide_7\.tif"):
        inferer()(image, network)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"scheduler": DDPMScheduler(100)}, TypeError, "found DDPMScheduler"),
        ({"num_generations": 0}, ValueError, "num_generations must be at least 1, found 0"),
        ({"max_batch": 0}, ValueError, "max_batch must be at least 1, found 0"),
        ({"num_inference_steps": 101}, ValueError, "found 101"),
        ({"num_inference_steps": 0}, ValueError, "found 0"),
        ({"seed": -1}, ValueError, "seed must be at least 0, found -1"),
        ({"overlap": 1.0}, ValueError, "overlap"),
        ({"mode": "gausian"}, ValueError, "gausian"),
        ({"memory_limit": 0}, ValueError, "memory_limit must be at least 1, found 0"),
        ({"max_batch": 2, "memory_limit": 9}, ValueError, "Give max_batch or memory_limit, found both: 2 and 9"),
        ({"window_mode": "jiont"}, ValueError, "jiont"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        inferer(**arguments)(torch.zeros(1, 1, 16, 16), Oracle())


def test_other_networks_are_refused() -> None:
    with pytest.raises(TypeError, match="encode_image.*found Conv2d"):
        inferer()(torch.zeros(1, 3, 16, 16), nn.Conv2d(3, 1, 1))


def test_active_dropout_is_refused(image: torch.Tensor) -> None:
    network = tiny_network(dropout=0.5)
    assert torch.equal(inferer()(image, network), inferer()(image, network))
    with pytest.raises(ValueError, match="eval mode"):
        inferer()(image, network.train())


def test_active_dropout_of_whole_channels_is_refused(image: torch.Tensor) -> None:
    encoder = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Dropout2d(0.5))
    network = tiny_network(image_encoder=encoder)
    inferer()(image, network)
    with pytest.raises(ValueError, match="eval mode"):
        inferer()(image, network.train())


def test_a_memory_limit_from_a_config_may_be_a_float(network: SegDiffUNet, image: torch.Tensor) -> None:
    assert torch.equal(inferer(memory_limit=1e9)(image, network), inferer(memory_limit=10**9)(image, network))


def test_a_network_that_returns_nan_is_refused(image: torch.Tensor) -> None:
    network = tiny_network()
    nn.init.constant_(network.mask_encoder.conv.bias, float("nan"))
    with pytest.raises(DivergenceError, match="found NaN"):
        inferer()(image, network)
