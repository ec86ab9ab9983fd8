# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import copy
import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from monai_segdiff import RespacedDDIMScheduler, RespacedDDPMScheduler, RespacedDPMSolverScheduler

FIXTURE = Path(__file__).parents[3].parent / "shared" / "fixtures" / "segdiff_reference.pt"
CLASSES = [RespacedDDPMScheduler, RespacedDDIMScheduler, RespacedDPMSolverScheduler]
EACH = pytest.mark.parametrize("scheduler_class", CLASSES)
SAMPLERS = {
    "large": partial(RespacedDDPMScheduler, variance_type="fixed_large"),
    "small": partial(RespacedDDPMScheduler, variance_type="fixed_small"),
    "DDIM": partial(RespacedDDIMScheduler, eta=0.0),
    "half": partial(RespacedDDIMScheduler, eta=0.5),
    "full": partial(RespacedDDIMScheduler, eta=1.0),
    "first": partial(RespacedDPMSolverScheduler, solver_order=1),
    "second": partial(RespacedDPMSolverScheduler, solver_order=2),
}
EACH_SAMPLER = pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS.keys())


@EACH
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


@EACH
@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
def test_add_noise_and_estimate_are_inverse(scheduler_class: Any, prediction_type: str) -> None:
    scheduler = scheduler_class(100, prediction_type=prediction_type, clip_sample=False)
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


@EACH
def test_estimate_is_clamped_on_request(scheduler_class: Any) -> None:
    output, x = torch.tensor([[[-3.0, 0.5, 2.0]]]), torch.zeros(1, 1, 3)
    free = scheduler_class(100, prediction_type="sample", clip_sample=False).step(output, 99, x, noise=x)[1]
    clamped = scheduler_class(100, prediction_type="sample", clip_sample=True).step(output, 99, x, noise=x)[1]
    assert free.tolist() == output.tolist()
    assert clamped.tolist() == [[[-1.0, 0.5, 1.0]]]
    assert scheduler_class(100).clip_sample == (scheduler_class is RespacedDPMSolverScheduler)


@EACH
def test_calls_change_no_table(scheduler_class: Any) -> None:
    scheduler = scheduler_class(100)
    before = copy.deepcopy(scheduler.__dict__)
    half = torch.zeros(2, 1, 4, 4).half()
    assert scheduler.add_noise(half, half, torch.tensor([3, 4])).dtype == torch.float16
    scheduler.get_velocity(half, half, torch.tensor([3, 4]))
    scheduler.step(half.float(), 99, half.float(), generator=torch.Generator().manual_seed(0))
    assert scheduler.alphas_cumprod.dtype == torch.float64
    assert torch.equal(scheduler.timesteps, before["timesteps"])
    assert all(torch.equal(scheduler._buffers[name], before["_buffers"][name]) for name in before["_buffers"])


@EACH
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


@EACH
@pytest.mark.parametrize("argument", [{"prediction_type": "noise"}, {"timestep_spacing": "leading"}])
def test_bad_options(scheduler_class: Any, argument: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="Unsupported option"):
        scheduler_class(100, **argument)


@EACH
def test_one_scheduler_per_trajectory(scheduler_class: Any) -> None:
    scheduler = scheduler_class(100)
    scheduler.set_timesteps(5)
    twin = scheduler.for_trajectory()
    assert type(twin) is scheduler_class
    assert twin.alphas_cumprod.data_ptr() == scheduler.alphas_cumprod.data_ptr()
    assert torch.equal(twin.timesteps, scheduler.timesteps)
    twin.set_timesteps(3)
    assert len(scheduler.timesteps) == scheduler.num_inference_steps == 5


def final_moments(scheduler: Any, mean: float, deviation: float) -> tuple[float, float]:
    """Mean and deviation of the samples if the network is the true posterior mean of x0 ~ N(mean, deviation^2).

    The end is then affine in the start and in the noise of every step, so that the moments follow exactly, without
    sampling: row 0 of the batch has all of these zero, and every other row has one of them equal to one.
    """
    kept = scheduler.timesteps.tolist()
    start, *noises = torch.cat([torch.zeros(len(kept) + 1, 1), torch.eye(len(kept) + 1)], dim=1).double()
    x = start
    for t, noise in zip(kept, noises, strict=True):
        bar = float(scheduler.alphas_cumprod[t])
        gain = bar**0.5 * deviation**2 / (bar * deviation**2 + 1 - bar)
        x, _ = scheduler.step(mean + gain * (x - bar**0.5 * mean), t, x, noise=noise)
    return x[0].item(), (x[1:] - x[0]).norm().item()


@EACH
@pytest.mark.parametrize("spacing", ["linspace", "trailing"])
@pytest.mark.parametrize("steps", [100, 25, 10, 5, 3, 2, 1])
def test_mean_of_a_gaussian_at_any_number_of_steps(scheduler_class: Any, spacing: str, steps: int) -> None:
    scheduler = scheduler_class(100, prediction_type="sample", timestep_spacing=spacing, clip_sample=False)
    scheduler.set_timesteps(steps)
    # MONAI's own DDPM ends at 0.528 with 25 of 100 steps, its DDIM at 0.691 with 10.
    assert final_moments(scheduler, 0.7, 0.1)[0] == pytest.approx(0.7, abs=1e-3)


@EACH_SAMPLER
def test_deviation_of_a_gaussian_converges(sampler: Any) -> None:
    scheduler = sampler(1000, prediction_type="sample", timestep_spacing="linspace", clip_sample=False)
    errors = []
    for steps in (10, 100, 1000):
        scheduler.set_timesteps(steps)
        errors.append(abs(final_moments(scheduler, 0.7, 0.1)[1] - 0.1))
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.004


PRIOR = 0.3


def two_points(scheduler: Any, x: torch.Tensor) -> list[torch.Tensor]:
    """States of a trajectory if the network knows the posterior of x0 = 1 (probability ``PRIOR``) or x0 = -1."""
    generator = torch.Generator().manual_seed(1)
    states = [x]
    for t in scheduler.timesteps.tolist():
        bar = float(scheduler.alphas_cumprod[t])
        x0 = torch.tanh(bar**0.5 * x / (1 - bar) + 0.5 * math.log(PRIOR / (1 - PRIOR)))
        epsilon = (x - bar**0.5 * x0) / (1 - bar) ** 0.5
        velocity = bar**0.5 * epsilon - (1 - bar) ** 0.5 * x0
        output = {"epsilon": epsilon, "sample": x0, "v_prediction": velocity}[scheduler.prediction_type]
        x, _ = scheduler.step(output, t, x, generator=generator)
        states.append(x)
    return states


@EACH_SAMPLER
@pytest.mark.parametrize("spacing", ["linspace", "trailing"])
@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("steps", [100, 25, 10, 5, 3, 2, 1])
def test_parameterisations_give_the_same_trajectory(sampler: Any, spacing: str, clip: bool, steps: int) -> None:
    start = torch.randn(500, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    trajectories = []
    for prediction_type in ("sample", "epsilon", "v_prediction"):
        scheduler = sampler(100, prediction_type=prediction_type, timestep_spacing=spacing, clip_sample=clip)
        scheduler.set_timesteps(steps)
        trajectories.append(torch.stack(two_points(scheduler, start)))
    # Rounding grows where a small change decides between the two points: up to 2e-11 was seen.
    torch.testing.assert_close(trajectories[1], trajectories[0], rtol=0, atol=1e-9)
    torch.testing.assert_close(trajectories[2], trajectories[0], rtol=0, atol=1e-9)
    assert all(states[-1].abs().max() <= 1 + (0 if clip else 1e-9) for states in trajectories)
    if steps == 1:
        bar = float(scheduler.alphas_cumprod[99])
        posterior = (PRIOR / (1 - PRIOR)) * torch.exp(2 * bar**0.5 * start / (1 - bar))
        torch.testing.assert_close(trajectories[0][-1], (posterior - 1) / (posterior + 1))


@EACH_SAMPLER
@pytest.mark.parametrize(
    ("steps", "least", "most", "bias"),
    # Few steps end early, at the mean of what is still possible: their masks are grey, and one step gives the prior's
    # mean. Seen with 200,000 samples, over all samplers: decided 1.0000, 0.9997 to 0.9999, 0.925 to 0.963, 0.517 to
    # 0.592, 0.113 to 0.163, 0.0002 to 0.0003, 0; mean off by up to 0.006, 0.032, 0.070, 0.080, 0.024, 0.002, 0.0001.
    # The bounds add four standard errors of 20,000 samples, at most 0.026 for the mean.
    [
        (100, 0.999, 1.0, 0.033),
        (25, 0.999, 1.0, 0.058),
        (10, 0.915, 0.97, 0.096),
        (5, 0.50, 0.61, 0.10),
        (3, 0.10, 0.18, 0.037),
        (2, 0.0, 0.001, 0.005),
        (1, 0.0, 0.0, 0.001),
    ],
)
def test_samples_of_two_points(sampler: Any, steps: int, least: float, most: float, bias: float) -> None:
    scheduler = sampler(100, prediction_type="sample", timestep_spacing="trailing")
    scheduler.set_timesteps(steps)
    start = torch.randn(20_000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    end = two_points(scheduler, start)[-1]
    assert least <= (end.abs() > 0.9).double().mean().item() <= most
    assert end.mean().item() == pytest.approx(2 * PRIOR - 1, abs=bias)
    if steps == 100:
        # 0.003 of it is the samplers' bias, the rest four standard errors.
        assert (end > 0.9).double().mean().item() == pytest.approx(PRIOR, abs=0.016)


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
