# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from monai_segdiff import RespacedDDIMScheduler, RespacedDDPMScheduler

FIXTURE = Path(__file__).parents[3].parent / "shared" / "fixtures" / "segdiff_reference.pt"
BOTH = pytest.mark.parametrize("scheduler_class", [RespacedDDPMScheduler, RespacedDDIMScheduler])


@BOTH
@pytest.mark.parametrize(
    ("spacing", "steps", "expected"),
    [
        ("linspace", 10, [99, 88, 77, 66, 55, 44, 33, 22, 11, 0]),
        ("linspace", 2, [99, 0]),
        ("linspace", 1, [99]),
        ("trailing", 4, [99, 74, 49, 24]),
        ("trailing", 1, [99]),
        ("trailing", 100, list(range(99, -1, -1))),
        ("linspace", 100, list(range(99, -1, -1))),
    ],
)
def test_kept_steps(scheduler_class: Any, spacing: str, steps: int, expected: list[int]) -> None:
    scheduler = scheduler_class(100, timestep_spacing=spacing)
    scheduler.set_timesteps(steps, device="meta")
    assert scheduler.timesteps.tolist() == expected
    assert scheduler.timesteps.device.type == "cpu"


@BOTH
@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
def test_add_noise_and_estimate_are_inverse(scheduler_class: Any, prediction_type: str) -> None:
    scheduler = scheduler_class(100, prediction_type=prediction_type)
    x0, noise = torch.randn(3, 1, 4, 4).double(), torch.randn(3, 1, 4, 4).double()
    for t in (0, 1, 50, 99):
        alpha_bar = torch.cumprod(1 - torch.linspace(0.001, 0.2, 100, dtype=torch.float64), 0)[t]
        timesteps = torch.full((3,), t)
        x = scheduler.add_noise(x0, noise, timesteps)
        torch.testing.assert_close(x, alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * noise)
        velocity = alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * x0
        torch.testing.assert_close(scheduler.get_velocity(x0, noise, timesteps), velocity)
        output = {"epsilon": noise, "sample": x0, "v_prediction": velocity}[prediction_type]
        torch.testing.assert_close(scheduler.predict_original_sample(output, t, x), x0, rtol=1e-9, atol=1e-9)


@BOTH
def test_estimate_is_clamped_on_request(scheduler_class: Any) -> None:
    output, x = torch.tensor([[[-3.0, 0.5, 2.0]]]), torch.zeros(1, 1, 3)
    free = scheduler_class(100, prediction_type="sample").step(output, 99, x, noise=x)[1]
    clamped = scheduler_class(100, prediction_type="sample", clip_sample=True).step(output, 99, x, noise=x)[1]
    assert free.tolist() == output.tolist()
    assert clamped.tolist() == [[[-1.0, 0.5, 1.0]]]


@BOTH
def test_calls_change_nothing(scheduler_class: Any) -> None:
    scheduler = scheduler_class(100)
    before = copy.deepcopy(scheduler.__dict__)
    half = torch.zeros(2, 1, 4, 4).half()
    assert scheduler.add_noise(half, half, torch.tensor([3, 4])).dtype == torch.float16
    scheduler.get_velocity(half, half, torch.tensor([3, 4]))
    scheduler.step(half.float(), 99, half.float(), generator=torch.Generator().manual_seed(0))
    assert scheduler.alphas_cumprod.dtype == torch.float64
    assert torch.equal(scheduler.timesteps, before["timesteps"])
    assert all(torch.equal(scheduler._buffers[name], before["_buffers"][name]) for name in before["_buffers"])


@BOTH
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: s.set_timesteps(0), r"1\.\.100, found 0"),
        (lambda s: s.set_timesteps(101), r"1\.\.100, found 101"),
        (lambda s: s.step(torch.zeros(1), 100, torch.zeros(1)), "100 is not one of the kept steps"),
    ],
)
def test_bad_calls(scheduler_class: Any, call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(scheduler_class(100))


@BOTH
@pytest.mark.parametrize("argument", [{"prediction_type": "noise"}, {"timestep_spacing": "leading"}])
def test_bad_options(scheduler_class: Any, argument: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="Unsupported option"):
        scheduler_class(100, **argument)


def final_moments(scheduler: Any, mean: float, deviation: float) -> tuple[float, float]:
    """Mean and deviation of the samples if the network is the true posterior mean of x0 ~ N(mean, deviation^2).

    Every step is then affine in the state and the noise, so that the moments follow exactly, without sampling.
    """
    m, v = 0.0, 1.0
    for t in scheduler.timesteps.tolist():
        bar = float(scheduler.alphas_cumprod[t])
        gain = bar**0.5 * deviation**2 / (bar * deviation**2 + 1 - bar)

        def step(x: float, z: float, t: int = t, bar: float = bar, gain: float = gain) -> float:
            output, noise = mean + gain * (x - bar**0.5 * mean), torch.tensor([z]).double()
            return scheduler.step(torch.tensor([output]).double(), t, torch.tensor([x]).double(), noise=noise)[0].item()

        offset = step(0, 0)
        slope, spread = step(1, 0) - offset, step(0, 1) - offset
        m, v = slope * m + offset, slope**2 * v + spread**2
    return m, v**0.5


@BOTH
@pytest.mark.parametrize("spacing", ["linspace", "trailing"])
@pytest.mark.parametrize("steps", [100, 25, 10, 5, 3, 2, 1])
def test_mean_of_a_gaussian_at_any_number_of_steps(scheduler_class: Any, spacing: str, steps: int) -> None:
    scheduler = scheduler_class(100, prediction_type="sample", timestep_spacing=spacing)
    scheduler.set_timesteps(steps)
    # MONAI's own DDPM ends at 0.528 with 25 of 100 steps, its DDIM at 0.691 with 10.
    assert final_moments(scheduler, 0.7, 0.1)[0] == pytest.approx(0.7, abs=1e-3)


@pytest.mark.parametrize(
    "scheduler",
    [
        RespacedDDIMScheduler(1000, prediction_type="sample"),
        RespacedDDPMScheduler(1000, prediction_type="sample"),
        RespacedDDPMScheduler(1000, prediction_type="sample", variance_type="fixed_small"),
    ],
    ids=["DDIM", "large", "small"],
)
def test_deviation_of_a_gaussian_converges(scheduler: Any) -> None:
    errors = []
    for steps in (10, 100, 1000):
        scheduler.set_timesteps(steps)
        errors.append(abs(final_moments(scheduler, 0.7, 0.1)[1] - 0.1))
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.004


@pytest.fixture(scope="module")
def reference() -> dict[str, Any]:
    if not FIXTURE.is_file():
        pytest.skip("the reference tensors of the released code are not present")
    return torch.load(FIXTURE, weights_only=True)


def test_schedule_and_training_equal_the_released_code(reference: dict[str, Any]) -> None:
    scheduler, saved = RespacedDDPMScheduler(100), reference["schedule100"]
    torch.testing.assert_close(scheduler.betas, saved["betas"], rtol=1e-12, atol=0)
    torch.testing.assert_close(scheduler.alphas_cumprod, saved["alphas_cumprod"], rtol=1e-12, atol=0)
    training = reference["training"]
    x = scheduler.add_noise(training["x_start"], training["noise"], training["t"])
    torch.testing.assert_close(x, training["x_t"], rtol=1e-6, atol=1e-6)
