# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from monai.data import MetaTensor
from monai.networks.schedulers import DDPMScheduler
from torch import nn

from monai_segdiff import RespacedDDIMScheduler, RespacedDDPMScheduler, SegDiffInferer, SegDiffUNet
from monai_segdiff.exceptions import DivergenceError


def tiny_network(spatial_dims: int = 2, **changes: Any) -> SegDiffUNet:
    torch.manual_seed(0)
    arguments = {"image_channels": 3, "mask_channels": 1, "channels": (8, 16), "attention_levels": (False, True)}
    arguments |= {"num_res_blocks": 1, "num_rrdb_blocks": 1, "rrdb_channels": 4, "rrdb_growth_channels": 2}
    network = SegDiffUNet(spatial_dims, norm_num_groups=4, **(arguments | changes))  # type: ignore[arg-type]
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return network.eval()


def inferer(**changes: Any) -> SegDiffInferer:
    scheduler = RespacedDDPMScheduler(100, prediction_type="sample", clip_sample=True)
    return SegDiffInferer(**({"scheduler": scheduler, "num_inference_steps": 3, "num_generations": 2} | changes))


class OracleNetwork(nn.Module):
    """Knows the mask: the image's first channel; counts its calls and the rows they had."""

    spatial_dims, image_channels, mask_channels, size_divisor = 2, 3, 1, 4

    def __init__(self) -> None:
        super().__init__()
        self.encoded, self.rows, self.timesteps = 0, [], []

    def encode_image(self, image: torch.Tensor) -> torch.Tensor:
        self.encoded += len(image)
        return image[:, :1]

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor, image_features: torch.Tensor) -> torch.Tensor:
        assert x.shape == image_features.shape
        self.rows.append(len(x))
        self.timesteps.append(timesteps.tolist())
        return image_features


@pytest.fixture(scope="module")
def network() -> SegDiffUNet:
    return tiny_network()


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    return torch.randn(2, 3, 40, 28, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("stochastic", [True, False])
def test_same_bits_for_any_batching(network: SegDiffUNet, image: torch.Tensor, stochastic: bool) -> None:
    arguments: dict[str, Any] = {"roi_size": 16, "num_generations": 3}
    if not stochastic:
        arguments["scheduler"] = RespacedDDIMScheduler(100, prediction_type="sample")
    expected = inferer(**arguments)(image, network)
    for sw_batch_size in (2, 3, 5, 100):
        assert torch.equal(inferer(sw_batch_size=sw_batch_size, **arguments)(image, network), expected)
    # The same image alone, or at another place in the batch.
    assert torch.equal(inferer(**arguments)(image[1:], network), expected[1:])
    assert torch.equal(inferer(**arguments)(image.flip(0), network), expected.flip(0))
    # A batch that the rows do not fill is filled up.
    for max_batch in (4, 7):
        packed = [inferer(max_batch=max_batch, sw_batch_size=n, **arguments)(image, network) for n in (1, 3, 100)]
        assert torch.equal(packed[0], packed[1])
        assert torch.equal(packed[0], packed[2])
        assert torch.allclose(packed[0], expected, atol=1e-5)


def test_encoding_once_equals_encoding_at_every_step(network: SegDiffUNet, image: torch.Tensor) -> None:
    arguments = {"roi_size": 16, "num_generations": 2, "num_inference_steps": 4}
    cached = inferer(**arguments)(image, network)
    assert torch.equal(inferer(cache_image_features=False, **arguments)(image, network), cached)


@pytest.mark.parametrize("generations", [1, 5])
@pytest.mark.parametrize("steps", [1, 4])
def test_the_image_is_encoded_once_per_window(generations: int, steps: int) -> None:
    network = OracleNetwork()
    image = torch.zeros(1, 3, 32, 32)
    inferer(roi_size=16, overlap=0.0, num_generations=generations, num_inference_steps=steps)(image, network)
    assert network.encoded == 4
    assert network.rows == [generations] * (4 * steps)
    assert all(len(timesteps) == 1 for timesteps in network.timesteps)
    network = OracleNetwork()
    uncached = inferer(
        roi_size=16, overlap=0.0, num_generations=generations, num_inference_steps=steps, cache_image_features=False
    )
    uncached(image, network)
    # At every step, in every row: what the released code pays.
    assert network.encoded == 4 * generations * steps


def test_rows_are_packed_up_to_max_batch() -> None:
    network = OracleNetwork()
    inferer(roi_size=16, overlap=0.0, sw_batch_size=4, max_batch=6, num_inference_steps=1)(
        torch.zeros(1, 3, 32, 32), network
    )
    # 4 windows x 2 generations = 8 rows, in 2 calls of 6, the second filled up.
    assert network.rows == [6, 6]


@pytest.mark.parametrize("size", [(40, 28), (9, 50), (1, 1), (16, 16), (33, 17)])
@pytest.mark.parametrize("mode", ["gaussian", "constant"])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.6])
def test_an_oracle_gives_its_mask_back_at_any_size(size: tuple[int, int], mode: str, overlap: float) -> None:
    mask = (torch.rand(2, 1, *size, generator=torch.Generator().manual_seed(0)) > 0.5).float()
    image = torch.cat([2 * mask - 1, torch.zeros(2, 2, *size)], 1)
    result = inferer(roi_size=16, mode=mode, overlap=overlap)(image, OracleNetwork())
    assert result.shape == mask.shape
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, mask, atol=1e-6, rtol=0)


def test_whole_image_as_one_window_is_padded_for_the_levels(network: SegDiffUNet) -> None:
    result = inferer(roi_size=None)(torch.randn(1, 3, 13, 22), network)
    assert result.shape == (1, 1, 13, 22)
    assert 0 <= result.min() <= result.max() <= 1


def test_volumes_and_several_classes() -> None:
    network = tiny_network(3, image_channels=1, mask_channels=2)
    result = inferer(roi_size=(8, 8, 8))(torch.randn(1, 1, 9, 12, 8), network)
    assert result.shape == (1, 2, 9, 12, 8)


def test_windows_and_generations_have_their_own_noise(network: SegDiffUNet) -> None:
    image = torch.zeros(1, 3, 32, 16)
    one, two = inferer(roi_size=16, overlap=0.0).generations(image, network)
    assert not torch.equal(one, two)
    assert not torch.equal(one[..., :16, :], one[..., 16:, :])
    alone = inferer(roi_size=16, overlap=0.0, num_generations=1, max_batch=2)
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


def test_global_random_state_scheduler_and_input_are_left_alone(network: SegDiffUNet, image: torch.Tensor) -> None:
    scheduler = RespacedDDPMScheduler(100, prediction_type="sample")
    sampler, before, state = inferer(scheduler=scheduler), image.clone(), torch.get_rng_state()
    first = sampler(image, network)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(123)
    assert torch.equal(sampler(image, network), first)
    assert scheduler.timesteps.tolist() == list(range(99, -1, -1))
    assert torch.equal(image, before)


def test_threads_give_the_serial_bits(network: SegDiffUNet) -> None:
    sampler = inferer(roi_size=16)
    images = [torch.randn(1, 3, 24, 20, generator=torch.Generator().manual_seed(i)) for i in range(8)]
    serial = [sampler(image, network) for image in images]
    results: list[torch.Tensor | None] = [None] * len(images)

    def work(i: int) -> None:
        results[i] = sampler(images[i], network)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(images))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(expected, result) for expected, result in zip(serial, results, strict=True))


def test_any_input_type_gives_float32(network: SegDiffUNet) -> None:
    image = torch.randint(0, 255, (1, 3, 16, 16))
    expected = inferer()(image.float(), network)
    assert torch.equal(inferer()(image.to(torch.uint8), network), expected)
    result = inferer()(MetaTensor(image.float(), meta={"filename_or_obj": "a.png"}), network)
    assert isinstance(result, MetaTensor)
    assert result.meta["filename_or_obj"] == "a.png"
    assert torch.equal(result.as_tensor(), expected)


def test_samples_in_float32_under_autocast(network: SegDiffUNet, image: torch.Tensor) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = inferer()(image, network)
    assert result.dtype == torch.float32
    assert torch.allclose(result, inferer()(image, network), atol=0.1)


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
    ],
)
def test_bad_arguments(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        inferer(**arguments)(torch.zeros(1, 3, 16, 16), OracleNetwork())


def test_other_networks_are_refused() -> None:
    with pytest.raises(TypeError, match="encode_image.*found Conv2d"):
        inferer()(torch.zeros(1, 3, 16, 16), nn.Conv2d(3, 1, 1))


def test_active_dropout_is_refused(image: torch.Tensor) -> None:
    network = tiny_network(dropout=0.5)
    assert torch.equal(inferer()(image, network), inferer()(image, network))
    with pytest.raises(ValueError, match="eval mode"):
        inferer()(image, network.train())


def test_a_network_that_returns_nan_is_refused(image: torch.Tensor) -> None:
    network = tiny_network()
    nn.init.constant_(network.mask_encoder.conv.bias, float("nan"))
    with pytest.raises(DivergenceError, match="found NaN"):
        inferer()(image, network)
