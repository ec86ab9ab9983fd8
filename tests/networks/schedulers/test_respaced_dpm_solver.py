# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import copy
import itertools
import math
import pickle
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from monai.inferers import DiffusionInferer
from torch import nn

from monai_segdiff import RespacedDDIMScheduler, RespacedDPMSolverScheduler


class Network(nn.Module):
    """Any smooth function of the state and the timestep, with values beyond [-1, 1]."""

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor, context: torch.Tensor | None = None) -> torch.Tensor:
        return 1.5 * torch.sin(3 * x + 0.1 * timesteps.to(x.dtype))


def sampler(steps: int = 5, total: int = 100, **arguments: Any) -> RespacedDPMSolverScheduler:
    scheduler = RespacedDPMSolverScheduler(total, **({"prediction_type": "sample"} | arguments))
    scheduler.set_timesteps(steps)
    return scheduler


def start(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape or (2, 1, 8, 8), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def advance(scheduler: Any, x: torch.Tensor, steps: Sequence[int] | None = None) -> torch.Tensor:
    """Go through the given steps, or all."""
    for t in scheduler.timesteps.tolist() if steps is None else steps:
        x, _ = scheduler.step(Network()(x, torch.tensor([t])), t, x)
    return x


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("spacing", ["trailing", "linspace"])
@pytest.mark.parametrize("steps", [100, 10, 3])
def test_equals_the_published_formula(clip: bool, spacing: str, steps: int) -> None:
    scheduler = sampler(steps, clip_sample=clip, timestep_spacing=spacing)
    kept = scheduler.timesteps.tolist()
    betas = [0.001 + (0.2 - 0.001) * t / 99 for t in range(100)]
    bars = list(itertools.accumulate((1 - beta for beta in betas), lambda a, b: a * b))
    alphas, sigmas = [bar**0.5 for bar in bars], [(1 - bar) ** 0.5 for bar in bars]
    lambdas = [math.log(alpha / sigma) for alpha, sigma in zip(alphas, sigmas, strict=True)]

    def clamp(value: float) -> float:
        return min(max(value, -1.0), 1.0) if clip else value

    x = 0.8
    estimates: list[float] = []
    state = torch.tensor([x], dtype=torch.float64)
    for k, t in enumerate(kept):
        estimates.append(clamp(1.5 * math.sin(3 * x + 0.1 * t)))
        if k + 1 == len(kept):
            x = estimates[-1]
        else:
            s = kept[k + 1]
            h = lambdas[s] - lambdas[t]
            d = estimates[k]
            if k > 0:
                r = (lambdas[t] - lambdas[kept[k - 1]]) / h
                d = clamp((1 + 1 / (2 * r)) * estimates[k] - 1 / (2 * r) * estimates[k - 1])
            x = sigmas[s] / sigmas[t] * x - alphas[s] * math.expm1(-h) * d
        state, estimate = scheduler.step(Network()(state, torch.tensor([t])), t, state)
        assert estimate.item() == pytest.approx(estimates[-1], rel=1e-9, abs=1e-9)
        assert state.item() == pytest.approx(x, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("steps", [100, 10, 2, 1])
def test_first_order_is_ddim(prediction_type: str, steps: int) -> None:
    arguments: dict[str, Any] = {"prediction_type": prediction_type, "timestep_spacing": "trailing"}
    ddim = RespacedDDIMScheduler(100, clip_sample=True, **arguments)
    ddim.set_timesteps(steps)
    assert torch.equal(advance(sampler(steps, solver_order=1, **arguments), start()), advance(ddim, start()))


@pytest.mark.parametrize("order", [0, 3])
def test_order_out_of_range(order: int) -> None:
    with pytest.raises(ValueError, match=f"must be 1 or 2, found {order}"):
        RespacedDPMSolverScheduler(100, solver_order=order)


def flow(bar: float, mean: float, deviation: float) -> torch.Tensor:
    """State of the probability-flow ODE of the target N(mean, deviation^2) that began at five given noises."""
    return bar**0.5 * mean + (bar * deviation**2 + 1 - bar) ** 0.5 * torch.linspace(-2, 2, 5, dtype=torch.float64)


def flow_error(scheduler: Any, mean: float, deviation: float, stop: int | None = None) -> float:
    """Largest distance from the ODE's state at the kept step ``stop``, or from its end, with the exact network."""
    x = flow(float(scheduler.alphas_cumprod[int(scheduler.timesteps[0])]), mean, deviation)
    for t in scheduler.timesteps.tolist():
        bar = float(scheduler.alphas_cumprod[t])
        if t == stop:
            return (x - flow(bar, mean, deviation)).abs().max().item()
        gain = bar**0.5 * deviation**2 / (bar * deviation**2 + 1 - bar)
        x, _ = scheduler.step(mean + gain * (x - bar**0.5 * mean), t, x)
    assert stop is None
    return (x - flow(1.0, mean, deviation)).abs().max().item()


@pytest.mark.parametrize("order", [1, 2])
def test_order_of_convergence(order: int) -> None:
    """Up to a step that all these subsets keep; the jump from the last kept step to the end is of first order."""
    counts = [10, 20, 40, 100, 200]
    errors = [flow_error(sampler(n, 1000, solver_order=order, clip_sample=False), 0.3, 0.5, stop=199) for n in counts]
    for (n, error), (more, smaller) in itertools.pairwise(zip(counts, errors, strict=True)):
        # Seen: 0.97 to 1.00 and 1.98 to 2.03.
        assert math.log(error / smaller) / math.log(more / n) == pytest.approx(order, abs=0.1)


@pytest.mark.parametrize(("mean", "deviation"), [(0.7, 0.1), (0.2, 0.3), (0.3, 0.5)])
@pytest.mark.parametrize("steps", [3, 5, 10, 25, 100])
def test_second_order_is_closer_to_the_flow(mean: float, deviation: float, steps: int) -> None:
    first, second = (sampler(steps, solver_order=order, clip_sample=False) for order in (1, 2))
    stop = int(first.timesteps[-1])
    # Seen: at most 0.91, 0.68 and 0.47 of the error with 3, 5 and more steps.
    share = {3: 0.95, 5: 0.75}.get(steps, 0.5)
    assert flow_error(second, mean, deviation, stop) < share * flow_error(first, mean, deviation, stop)
    assert flow_error(second, mean, deviation) <= flow_error(first, mean, deviation)


def two_point_share(scheduler: Any, prior: float) -> tuple[float, float]:
    """Share of samples above 0, and their mean, for x0 = 1 with probability ``prior``, else -1; no sampling error."""
    bar = float(scheduler.alphas_cumprod[-1])
    # The two diffused points as one normal distribution: their distance is a hundredth of its deviation.
    x = bar**0.5 * (2 * prior - 1) + torch.special.ndtri((torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000)
    for t in scheduler.timesteps.tolist():
        bar = float(scheduler.alphas_cumprod[t])
        x, _ = scheduler.step(torch.tanh(bar**0.5 * x / (1 - bar) + 0.5 * math.log(prior / (1 - prior))), t, x)
    return (x > 0).double().mean().item(), x.mean().item()


@pytest.mark.parametrize("spacing", ["linspace", "trailing"])
@pytest.mark.parametrize(("steps", "bound"), [(100, 0.0002), (25, 0.001), (10, 0.004), (5, 0.03)])
def test_second_order_keeps_the_share_of_two_points(spacing: str, steps: int, bound: float) -> None:
    first, second = (
        abs(two_point_share(sampler(steps, solver_order=order, timestep_spacing=spacing), 0.3)[0] - 0.3)
        for order in (1, 2)
    )
    # Seen: second order 0, 0.0003, 0.0026, 0.026 at most, first order 0.0013, 0.0056, 0.016, 0.040 at least.
    assert second < bound < first


def test_two_evenly_spaced_steps_lose_the_rarer_point() -> None:
    share, mean = two_point_share(sampler(2, timestep_spacing="linspace"), 0.3)
    assert share == 0
    assert mean == pytest.approx(-1, abs=1e-6)
    assert two_point_share(sampler(2), 0.3)[1] == pytest.approx(-0.4, abs=0.003)


@pytest.mark.parametrize("steps", [25, 5, 2, 1])
@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
def test_no_output_leaves_the_range(steps: int, prediction_type: str) -> None:
    scheduler = sampler(steps, prediction_type=prediction_type)
    x = start()
    for t in scheduler.timesteps.tolist():
        output = 100 * start(seed=t)
        bar, previous = scheduler.alpha_bars(t)
        expected = scheduler.predict_original_sample(output, t, x)
        before = x
        x, estimate = scheduler.step(output, t, x)
        assert torch.equal(estimate, expected)
        assert estimate.abs().max() == 1
        # The step shrinks the state and adds its share of D, which is a mask in range too.
        ratio = ((1 - previous) / (1 - bar)) ** 0.5
        assert (x - ratio * before).abs().max() <= previous**0.5 - ratio * bar**0.5 + 1e-9
    assert torch.equal(x, estimate)


def test_memory_of_another_trajectory_is_not_used() -> None:
    scheduler, kept = sampler(), sampler().timesteps.tolist()
    expected = advance(sampler(), start())
    for done in range(len(kept) + 1):
        advance(scheduler, start(seed=1), kept[:done])
        assert torch.equal(advance(scheduler, start()), expected)


@pytest.mark.parametrize(
    ("before", "x"),
    [
        (0, start()),
        (2, start()),
        (3, start()),
        (1, start(3, 1, 8, 8)),
        (1, start(1, 1, 8, 8)),
        (1, start().float()),
    ],
    ids=["skipped", "repeated", "backwards", "larger", "smaller", "type"],
)
def test_memory_that_does_not_fit_is_not_used(before: int, x: torch.Tensor) -> None:
    scheduler, kept = sampler(), sampler().timesteps.tolist()
    advance(scheduler, start(seed=1), [kept[before]])
    expected = advance(sampler(solver_order=1), x, [kept[2]])
    assert torch.equal(advance(scheduler, x, [kept[2]]), expected)
    assert expected.dtype == x.dtype
    # One that fits is used.
    advance(scheduler, start(seed=1), [kept[1]])
    assert not torch.equal(advance(scheduler, start(), [kept[2]]), advance(sampler(solver_order=1), start(), [kept[2]]))


def test_choosing_the_steps_clears_the_memory() -> None:
    scheduler, kept = sampler(), sampler().timesteps.tolist()
    advance(scheduler, start(seed=1), kept[:1])
    scheduler.set_timesteps(5)
    assert torch.equal(advance(scheduler, start(), kept[1:2]), advance(sampler(), start(), kept[1:2]))


def test_memory_is_a_copy() -> None:
    scheduler, kept = sampler(clip_sample=False), sampler().timesteps.tolist()
    x, output = start(), start(seed=1)
    _, estimate = scheduler.step(output, kept[0], x)
    expected = advance(scheduler, x, kept[1:2])
    scheduler.step(output, kept[0], x)
    output.zero_()
    assert not estimate.any()
    assert torch.equal(advance(scheduler, x, kept[1:2]), expected)


def test_interleaved_trajectories_equal_single_ones() -> None:
    shared = sampler()
    kept = shared.timesteps.tolist()
    advance(shared, start(seed=9), kept[:1])
    schedulers = [shared.for_trajectory(), shared.for_trajectory(), shared]
    states = [start(seed=seed) for seed in range(3)]
    # The second lags one step behind the first, where it would find a memory that fits if it were shared.
    for k in range(len(kept) + 1):
        for number, lag in ((0, 0), (1, 1), (2, 0)):
            if 0 <= k - lag < len(kept):
                states[number] = advance(schedulers[number], states[number], [kept[k - lag]])
    for seed, state in enumerate(states):
        assert torch.equal(state, advance(sampler(), start(seed=seed)))


@pytest.mark.parametrize(
    "make",
    [
        copy.copy,
        copy.deepcopy,
        RespacedDPMSolverScheduler.for_trajectory,
        lambda scheduler: pickle.loads(pickle.dumps(scheduler)),
    ],
    ids=["copy", "deepcopy", "for_trajectory", "pickle"],
)
def test_copies_start_without_memory(make: Any) -> None:
    scheduler, kept = sampler(), sampler().timesteps.tolist()
    # An estimate with a gradient, which could not be deep-copied itself.
    scheduler.step(start().requires_grad_() * 0.5, kept[0], start())
    twin = make(scheduler)
    assert torch.equal(advance(twin, start(), kept[1:2]), advance(sampler(), start(), kept[1:2]))
    assert torch.equal(advance(twin, start()), advance(sampler(), start()))
    # The original still has its own.
    assert not torch.equal(advance(scheduler, start(), kept[1:2]), advance(sampler(), start(), kept[1:2]))


def test_gradient_passes_through_the_memory() -> None:
    """The second step's D falls with the first estimate, so that their weights in the state differ in sign."""
    scheduler, kept = sampler(clip_sample=False), sampler().timesteps.tolist()
    first, second, x = (start(4, seed=seed).requires_grad_(seed > 0) for seed in (1, 2, 0))
    scheduler.step(first, kept[0], x)
    scheduler.step(second, kept[1], x)[0].sum().backward()
    assert first.grad is not None
    assert second.grad is not None
    assert (first.grad < 0).all()
    assert (second.grad > 0).all()


def test_pure_noise_at_the_first_step() -> None:
    """With alpha-bar 0 at T - 1 lambda is minus infinity there, and the second step is of first order."""
    results = []
    for order in (1, 2):
        scheduler = sampler(3, solver_order=order)
        scheduler.alphas_cumprod[99] = 0
        results.append(advance(scheduler, start(), scheduler.timesteps.tolist()[:2]))
    assert torch.isfinite(results[0]).all()
    assert torch.equal(results[1], results[0])


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
def test_monai_inferer_gives_the_same(prediction_type: str) -> None:
    scheduler = sampler(prediction_type=prediction_type)
    expected = advance(sampler(prediction_type=prediction_type), start())
    for _ in range(2):
        found = DiffusionInferer(scheduler).sample(start(), Network(), verbose=False)  # type: ignore[arg-type]
        assert isinstance(found, torch.Tensor)
        assert torch.equal(found, expected)
    assert not scheduler.is_stochastic
