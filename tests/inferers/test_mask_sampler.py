# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest
import torch

from monai_segdiff import (
    RespacedDDIMScheduler,
    RespacedDDPMScheduler,
    RespacedDPMSolverScheduler,
)
from monai_segdiff.inferers.mask_sampler import MaskSampler
from monai_segdiff.networks.schedulers import RespacedScheduler

CPU = torch.device("cpu")
SCHEDULERS: list[Callable[..., RespacedScheduler]] = [
    RespacedDDPMScheduler,
    RespacedDDIMScheduler,
    RespacedDPMSolverScheduler,
    lambda *args, **kwargs: RespacedDDIMScheduler(*args, eta=0.7, **kwargs),
]


def scheduler_of(make: Callable[..., RespacedScheduler], steps: int = 6) -> RespacedScheduler:
    scheduler = make(100, prediction_type="sample")
    scheduler.set_timesteps(steps)
    return scheduler


def predict(x: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
    return torch.tanh(x * (0.3 + timestep / 100)) + 0.1 * x.roll(1, -1)


def stream_of(seed: int, *key: int) -> torch.Generator:
    return torch.Generator().manual_seed(int(np.random.SeedSequence([seed, *key]).generate_state(1, np.uint64)[0]) >> 1)


@pytest.mark.parametrize("make", SCHEDULERS)
def test_equals_a_loop_by_hand(make: Callable[..., RespacedScheduler]) -> None:
    scheduler, keys = scheduler_of(make), [(0, 0, 0), (3, 0, 12), (1, 7, 5)]
    found = MaskSampler(scheduler, 5, CPU)(predict, keys, (2, 3, 4))
    assert found.shape == (3, 2, 3, 4)
    assert found.dtype == torch.float32
    for mask, key in zip(found, keys, strict=True):
        stream, alone = stream_of(5, *key), scheduler_of(make)
        x = torch.randn(1, 2, 3, 4, generator=stream)
        for timestep in alone.timesteps:
            output = predict(x, timestep)
            noise = torch.randn(1, 2, 3, 4, generator=stream) if alone.is_stochastic else None
            x, _ = alone.step(output, int(timestep), x, noise=noise)
        torch.testing.assert_close(mask[None], x, atol=1e-6, rtol=0)


@pytest.mark.parametrize("make", SCHEDULERS)
def test_trajectory_holds_each_predicted_clean_mask_and_at_last_the_mask(
    make: Callable[..., RespacedScheduler],
) -> None:
    keys, seen = [(0, 0), (1, 0)], []

    def noting(x: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        seen.append(predict(x, timestep))
        return seen[-1]

    found = MaskSampler(scheduler_of(make), 5, CPU, trajectory=True)(noting, keys, (2, 3, 4))
    steps = found.unflatten(1, (6, 2)).movedim(1, 0)
    # The network predicts the clean mask itself, which one of the samplers clips.
    predicted = torch.stack(seen[:-1])
    assert torch.equal(steps[:-1], predicted.clamp(-1, 1) if scheduler_of(make).clip_sample else predicted)
    assert torch.equal(steps[-1], MaskSampler(scheduler_of(make), 5, CPU)(predict, keys, (2, 3, 4)))


def test_steps_in_their_order_with_one_timestep_for_all_rows() -> None:
    seen = []

    def note(x: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        seen.append((x.shape, timestep.shape, timestep.dtype, timestep.item()))
        return x

    MaskSampler(scheduler_of(RespacedDDPMScheduler, 3), 0, CPU)(note, [(0,), (1,)], (1, 4))
    assert seen == [((2, 1, 4), (1,), torch.int64, timestep) for timestep in (99, 50, 0)]


def test_an_oracle_gives_its_mask_back() -> None:
    mask = torch.where(torch.randn(2, 1, 5, 5, generator=torch.Generator().manual_seed(0)) > 0, 1.0, -1.0)
    for make in SCHEDULERS:
        found = MaskSampler(scheduler_of(make), 0, CPU)(lambda x, timestep: mask, [(0,), (1,)], (1, 5, 5))
        torch.testing.assert_close(found, mask, atol=1e-6, rtol=0)


def first_noise(seed: int, *keys: tuple[int, ...]) -> torch.Tensor:
    """With one step and the noise as the prediction the mask is the first noise."""
    sampler = MaskSampler(scheduler_of(RespacedDDIMScheduler, 1), seed, CPU)
    return sampler(lambda x, timestep: x, keys, (1, 8, 8))


def test_streams_differ_by_key_and_seed() -> None:
    keys = [(generation, row, column) for generation in range(5) for row in (0, 12, 24) for column in (0, 12)]
    noises = torch.cat([first_noise(seed, *keys) for seed in (0, 1, 2**31, 2**40)]).flatten(1)
    assert len({tuple(noise.tolist()) for noise in noises}) == len(noises)
    # Not even shifted or scaled copies of each other.
    correlation = torch.corrcoef(noises)
    assert correlation.fill_diagonal_(0).abs().max() < 0.65
    assert abs(noises.mean()) < 0.05
    assert noises.std() == pytest.approx(1, abs=0.05)


def test_streams_do_not_depend_on_their_company() -> None:
    together = first_noise(3, (0, 0, 0), (1, 0, 0), (0, 8, 0))
    assert torch.equal(together[1], first_noise(3, (1, 0, 0))[0])
    assert torch.equal(together.flip(0), first_noise(3, (0, 8, 0), (1, 0, 0), (0, 0, 0)))


@pytest.mark.parametrize("make", SCHEDULERS)
@pytest.mark.parametrize("steps", [1, 6])
def test_every_sampler_starts_from_the_same_noise(make: Callable[..., RespacedScheduler], steps: int) -> None:
    starts: list[torch.Tensor] = []

    def note(x: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        starts.append(x)
        return x

    MaskSampler(scheduler_of(make, steps), 1, CPU)(note, [(2, 3)], (1, 16))
    assert torch.equal(starts[0], torch.randn(1, 16, generator=stream_of(1, 2, 3))[None])


@pytest.mark.parametrize("make", SCHEDULERS)
def test_scheduler_and_global_random_state_are_left_alone(make: Callable[..., RespacedScheduler]) -> None:
    scheduler = scheduler_of(make)
    torch.manual_seed(4)
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    before = dict(vars(scheduler))
    first = MaskSampler(scheduler, 0, CPU)(predict, [(0,)], (1, 6))
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    assert vars(scheduler) == before
    torch.manual_seed(5)
    assert torch.equal(MaskSampler(scheduler, 0, CPU)(predict, [(0,)], (1, 6)), first)


@pytest.mark.parametrize("make", SCHEDULERS)
def test_interleaved_samplers_give_the_serial_bits(make: Callable[..., RespacedScheduler]) -> None:
    # All threads take every step together: a memory that they shared would surely be mixed up.
    sampler, threads = MaskSampler(scheduler_of(make), 0, CPU), 4
    serial = [sampler(predict, [(key,)], (1, 6, 6)) for key in range(threads)]
    barrier, results = threading.Barrier(threads, timeout=60), [torch.empty(0)] * threads

    def together(x: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        barrier.wait()
        return predict(x, timestep)

    def work(key: int) -> None:
        results[key] = sampler(together, [(key,)], (1, 6, 6))

    workers = [threading.Thread(target=work, args=(key,)) for key in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert all(torch.equal(result, expected) for result, expected in zip(results, serial, strict=True))


def test_a_sampler_inside_the_other_gives_the_serial_bits() -> None:
    # The same without threads: in the middle of one trajectory a whole other one, of the same shape.
    sampler = MaskSampler(scheduler_of(RespacedDPMSolverScheduler), 0, CPU)
    outer, inner = sampler(predict, [(0,)], (1, 6)), sampler(predict, [(1,)], (1, 6))

    def interrupted(x: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        assert torch.equal(sampler(predict, [(1,)], (1, 6)), inner)
        return predict(x, timestep)

    assert torch.equal(sampler(interrupted, [(0,)], (1, 6)), outer)
