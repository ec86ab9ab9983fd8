# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import copy
import itertools
import pickle
import re
from typing import Any

import pytest
import torch
from monai.data import MetaTensor
from torch.overrides import TorchFunctionMode

from monai_segdiff import CategoricalScheduler

KERNELS = ["uniform", "absorbing"]
EACH_KERNEL = pytest.mark.parametrize("kernel", KERNELS)
EACH_SAMPLER = pytest.mark.parametrize("sampler", ["re_noise", "posterior"])
EACH_SPACE = pytest.mark.parametrize("space", [(6, 5), (4, 3, 5)], ids=["2d", "3d"])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_labels(count: int, *shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(count, shape, generator=seeded(seed))


def random_noise(batch: int, *space: int, seed: int = 1) -> torch.Tensor:
    return torch.rand(batch, 2, *space, generator=seeded(seed))


def grid_noise(size: int) -> torch.Tensor:
    """Every pair of midpoints of ``size`` equal cells: shares of voxels are then probabilities, up to a cell."""
    middle = (torch.arange(size) + 0.5) / size
    return torch.stack(torch.meshgrid(middle, middle, indexing="ij"))[None]


def shares(labels: torch.Tensor, states: int) -> torch.Tensor:
    return torch.bincount(labels.flatten(), minlength=states) / labels.numel()


def logits_of(labels: torch.Tensor, classes: int, size: float = 80.0) -> torch.Tensor:
    """Logits that leave no doubt about the labels."""
    return size * torch.nn.functional.one_hot(labels[:, 0], classes).movedim(-1, 1).float()


def sample_all(scheduler: CategoricalScheduler, oracle: torch.Tensor, seed: int = 0) -> list[torch.Tensor]:
    """States of a trajectory from pure noise with a network that knows the clean labels."""
    generator = seeded(seed)
    states = [scheduler.pure_noise(torch.rand(len(oracle), 2, *oracle.shape[2:], generator=generator))]
    for t in scheduler.timesteps.tolist():
        state, estimate = scheduler.step(logits_of(oracle, scheduler.num_classes), t, states[-1], generator=generator)
        assert torch.equal(estimate, oracle)
        states.append(state)
    return states


@pytest.mark.parametrize(("steps", "expected"), [(1, [19]), (2, [19, 0]), (3, [19, 10, 0]), (5, [19, 14, 10, 5, 0])])
def test_kept_steps(steps: int, expected: list[int]) -> None:
    scheduler = CategoricalScheduler(3)
    scheduler.set_timesteps(steps, device="meta")
    assert scheduler.timesteps.tolist() == expected
    assert scheduler.timesteps.dtype == torch.int64
    assert scheduler.timesteps.device.type == "cpu"
    assert scheduler.num_inference_steps == steps


@pytest.mark.parametrize("steps", range(1, 21))
def test_any_number_of_steps_is_kept_exactly(steps: int) -> None:
    scheduler = CategoricalScheduler(3)
    scheduler.set_timesteps(steps)
    kept = scheduler.timesteps.tolist()
    assert sorted(set(kept), reverse=True) == kept
    assert len(kept) == steps


def test_attributes() -> None:
    scheduler = CategoricalScheduler(4)
    assert (scheduler.num_classes, scheduler.num_states, scheduler.num_train_timesteps) == (4, 4, 20)
    assert (scheduler.kernel, scheduler.sampler) == ("uniform", "re_noise")
    assert scheduler.timesteps.tolist() == [*range(20)][::-1]
    assert scheduler.alphas_cumprod[[0, -1]].tolist() == pytest.approx([0.99999, 9e-6], rel=1e-9)
    assert CategoricalScheduler(4, kernel="absorbing").num_states == 5
    cosine = CategoricalScheduler(4, 20, "ddps_cosine")
    assert cosine.alphas_cumprod[[5, 10]].tolist() == pytest.approx([0.381, 0.086], abs=5e-4)
    gaussian = CategoricalScheduler(4, 100, "linear_beta", beta_end=0.1)
    assert gaussian.alphas_cumprod.dtype == torch.float64
    assert gaussian.alphas_cumprod[1].item() == pytest.approx((1 - 1e-4) * (1 - 1e-4 - 0.0999 / 99), rel=1e-6)


# With T = 6 abar of level 3 is 0.4, up to 2e-6.
@pytest.mark.parametrize(
    ("kernel", "expected"),
    [("uniform", [0.12, 0.12, 0.52, 0.12, 0.12]), ("absorbing", [0.0, 0.0, 0.4, 0.0, 0.0, 0.6])],
)
def test_marginals(kernel: str, expected: list[float]) -> None:
    scheduler = CategoricalScheduler(5, 6, kernel=kernel)
    noise = torch.cat([grid_noise(100), random_noise(1, 100, 100)])
    found = scheduler.add_noise(torch.full((2, 1, 100, 100), 2), noise, torch.tensor([3, 3]))
    assert found.dtype == torch.int64
    torch.testing.assert_close(shares(found[0], len(expected)), torch.tensor(expected))
    # Four standard errors of 10,000 draws are at most 0.02.
    torch.testing.assert_close(shares(found[1], len(expected)), torch.tensor(expected), rtol=0, atol=0.02)


@EACH_KERNEL
@EACH_SPACE
def test_every_sample_has_its_own_level(kernel: str, space: tuple[int, ...]) -> None:
    scheduler = CategoricalScheduler(3, 20, kernel=kernel)
    labels, noise = random_labels(3, 3, 1, *space), random_noise(3, *space)
    levels = torch.tensor([0, 12, 19])
    found = scheduler.add_noise(labels, noise, levels)
    assert found.shape == labels.shape
    for k in range(3):
        alone = scheduler.add_noise(labels[k : k + 1], noise[k : k + 1], levels[k : k + 1])
        assert torch.equal(found[k : k + 1], alone)
    assert torch.equal(found[0], labels[0])
    assert torch.equal(found[2], scheduler.pure_noise(noise)[2])
    # Voxel by voxel, from the definition.
    replaced = torch.full_like(labels, 3) if kernel == "absorbing" else (3 * noise[:, 1:]).floor().long()
    keep = 0.99999 + 12 / 19 * (9e-6 - 0.99999)
    assert torch.equal(found[1], torch.where(noise[1, :1] < keep, labels[1], replaced[1]))
    assert 0 < (found[1] == replaced[1]).sum() < found[1].numel()
    everywhere = scheduler.add_noise(labels, noise, torch.tensor([12]))
    assert torch.equal(everywhere, scheduler.add_noise(labels, noise, torch.tensor([12, 12, 12])))


@EACH_KERNEL
def test_pure_noise_does_not_depend_on_the_content(kernel: str) -> None:
    scheduler = CategoricalScheduler(4, 20, kernel=kernel)
    noise, last = random_noise(1, 64, 64), torch.tensor([19])
    states = [scheduler.add_noise(torch.full((1, 1, 64, 64), c), noise, last) for c in range(4)]
    assert all(torch.equal(state, scheduler.pure_noise(noise)) for state in states)
    found = shares(states[0], scheduler.num_states).tolist()
    # Four standard errors of 4096 draws: 0.027.
    assert found == pytest.approx([0.0] * 4 + [1.0] if kernel == "absorbing" else [0.25] * 4, abs=0.027)


def test_pure_noise_takes_all_classes_alike() -> None:
    states = CategoricalScheduler(5).pure_noise(grid_noise(100))
    assert states.shape == (1, 1, 100, 100)
    torch.testing.assert_close(shares(states, 5), torch.full((5,), 0.2))
    largest = torch.full((1, 2, 1, 1), 1 - 2**-24)
    assert all(int(CategoricalScheduler(k).pure_noise(largest)) == k - 1 for k in range(2, 300))


def test_a_mask_token_stays() -> None:
    scheduler = CategoricalScheduler(2, kernel="absorbing")
    tokens = torch.full((1, 1, 8, 8), 2)
    for level in (0, 10):
        assert torch.equal(scheduler.add_noise(tokens, random_noise(1, 8, 8), torch.tensor([level])), tokens)


class LargestResult(TorchFunctionMode):
    """Number of elements of the largest tensor that any call returned."""

    size = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.size = max(self.size, result.numel())
        return result


@EACH_KERNEL
def test_add_noise_makes_no_tensor_with_a_channel_per_class(kernel: str) -> None:
    scheduler = CategoricalScheduler(50, kernel=kernel)
    labels, noise = random_labels(50, 2, 1, 16, 16), random_noise(2, 16, 16)
    with LargestResult() as largest:
        scheduler.add_noise(labels, noise, torch.tensor([3, 9]))
        scheduler.pure_noise(noise)
    assert noise.numel() // 2 <= largest.size <= noise.numel()


def paths(scheduler: CategoricalScheduler) -> torch.Tensor:
    """Probability of every path x_0 -> level 0 -> ... -> level 3 given x_0; axis 0 is x_0, axis n + 1 is level n."""
    states, classes = scheduler.num_states, scheduler.num_classes
    matrices, before = [], 1.0
    for keep in scheduler.alphas_cumprod.tolist():
        alpha = keep / before
        matrix = alpha * torch.eye(states, dtype=torch.float64)
        if scheduler.kernel == "uniform":
            matrix += (1 - alpha) / classes
        else:
            matrix[:, -1] += 1 - alpha
        matrices.append(matrix)
        before = keep
    return torch.einsum("ab,bc,cd,de->abcde", *matrices)[:classes]


@EACH_KERNEL
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("schedule", ["ddps_linear", "ddps_cosine"])
@pytest.mark.parametrize(("s", "t"), list(itertools.combinations(range(4), 2)))
def test_posterior_is_bayes_by_enumeration(kernel: str, classes: int, schedule: str, s: int, t: int) -> None:
    scheduler = CategoricalScheduler(classes, 4, schedule, kernel=kernel)
    states = scheduler.num_states
    others = [n + 1 for n in range(4) if n not in (s, t)]
    joint = paths(scheduler).sum(others)  # [x_0, x_s, x_t]
    pairs = [(c, x) for c in range(classes) for x in range(states) if joint[c, :, x].sum() > 0]
    prediction, sample = (torch.tensor(values).reshape(1, 1, -1) for values in zip(*pairs, strict=True))
    found = scheduler.posterior(prediction, t, s, sample)
    assert found.shape == (1, states, len(pairs))
    assert found.dtype == torch.float32
    expected = torch.stack([joint[c, :, x] / joint[c, :, x].sum() for c, x in pairs], dim=-1)[None]
    torch.testing.assert_close(found, expected.float(), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(found.sum(1), torch.ones(1, len(pairs)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("clean", [None, -1])
@pytest.mark.parametrize("t", [0, 7, 19])
def test_posterior_of_the_clean_labels_is_the_prediction(clean: int | None, t: int) -> None:
    labels = torch.tensor([[[0, 1, 2, 0, 1, 2]]])
    prediction = torch.rand(1, 3, 6, generator=seeded()).softmax(1)
    uniform = CategoricalScheduler(3)
    torch.testing.assert_close(uniform.posterior(prediction, t, clean, labels), prediction)
    torch.testing.assert_close(uniform.posterior(labels, t, clean, labels.roll(1)), logits_of(labels, 3, 1.0))
    tokens = torch.full_like(labels, 3)
    found = CategoricalScheduler(3, kernel="absorbing").posterior(prediction, t, clean, tokens)
    torch.testing.assert_close(found, torch.cat([prediction, torch.zeros(1, 1, 6)], dim=1))


def test_the_example_that_the_released_sampler_gets_wrong() -> None:
    """The released code gives 0.017 and 0.943."""
    scheduler = CategoricalScheduler(5, 20)
    found = scheduler.posterior(torch.tensor([[[0]]]), 5, 4, torch.tensor([[[1]]]))[0, :, 0]
    assert found.tolist() == pytest.approx([0.211, 0.757, 0.0107, 0.0107, 0.0107], abs=5e-4)


@EACH_KERNEL
@pytest.mark.parametrize(("t", "s"), [(19, 10), (10, 0), (1, 0), (5, 4)])
@EACH_SPACE
def test_soft_prediction_is_the_mixture(kernel: str, t: int, s: int, space: tuple[int, ...]) -> None:
    scheduler = CategoricalScheduler(4, 20, kernel=kernel)
    probabilities = torch.randn(2, 4, *space, generator=seeded()).mul(2).softmax(1)
    sample = random_labels(scheduler.num_states, 2, 1, *space)
    expected = sum(
        probabilities[:, c : c + 1] * scheduler.posterior(torch.full_like(sample, c), t, s, sample) for c in range(4)
    )
    found = scheduler.posterior(probabilities, t, s, sample)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(found.sum(1), torch.ones(2, *space))
    if kernel == "absorbing":
        # A visible label stays, whatever was predicted.
        visible = (sample != 4).expand_as(found)
        state = torch.nn.functional.one_hot(sample[:, 0], 5).movedim(-1, 1).float()
        assert torch.equal(found[visible], state[visible])
    # One-hot probabilities are labels.
    hard = probabilities.argmax(1, keepdim=True)
    soft = scheduler.posterior(logits_of(hard, 4, 1.0).half(), t, s, sample)
    assert torch.equal(soft, scheduler.posterior(hard.to(torch.uint8), t, s, sample))


@EACH_KERNEL
def test_a_posterior_step_draws_from_the_posterior(kernel: str) -> None:
    scheduler = CategoricalScheduler(4, 20, kernel=kernel, sampler="posterior")
    scheduler.set_timesteps(3)
    logits = torch.tensor([1.0, -1.0, 0.5, 2.0]).reshape(1, 4, 1, 1).repeat(2, 1, 200, 200)
    sample = torch.tensor([1, scheduler.num_states - 1]).reshape(2, 1, 1, 1).repeat(1, 1, 200, 200)
    # After step 10 of 19, 10, 0 comes 0, not 9.
    expected = scheduler.posterior(logits.softmax(1), 10, 0, sample)[:, :, 0, 0]
    exact, estimate = scheduler.step(logits, 10, sample, noise=grid_noise(200).repeat(2, 1, 1, 1))
    drawn, _ = scheduler.step(logits, 10, sample, generator=seeded())
    assert (estimate == 3).all()
    for k in range(2):
        torch.testing.assert_close(shares(exact[k], scheduler.num_states), expected[k], rtol=0, atol=0.006)
        # Four standard errors of 40,000 draws are at most 0.01.
        torch.testing.assert_close(shares(drawn[k], scheduler.num_states), expected[k], rtol=0, atol=0.01)


def test_a_posterior_step_uses_channel_1_only() -> None:
    scheduler = CategoricalScheduler(3, 20, sampler="posterior")
    logits, sample, noise = torch.randn(1, 3, 9, 9, generator=seeded()), random_labels(3, 1, 1, 9, 9), grid_noise(9)
    other = torch.cat([noise[:, 1:], noise[:, 1:]], dim=1)
    assert torch.equal(scheduler.step(logits, 9, sample, noise)[0], scheduler.step(logits, 9, sample, other)[0])
    assert not torch.equal(
        scheduler.step(logits, 9, sample, noise)[0], scheduler.step(logits, 9, sample, noise.flip(1))[0]
    )


@pytest.mark.parametrize("value", [0.0, 1 - 2**-24])
def test_extreme_noise_draws_no_state_of_probability_zero(value: float) -> None:
    scheduler = CategoricalScheduler(3, 20, kernel="absorbing", sampler="posterior")
    sample = random_labels(3, 1, 1, 9, 9)
    found, _ = scheduler.step(torch.zeros(1, 3, 9, 9), 9, sample, noise=torch.full((1, 2, 9, 9), value))
    assert torch.equal(found, sample)


@EACH_KERNEL
def test_a_re_noise_step_noises_the_argmax(kernel: str) -> None:
    scheduler = CategoricalScheduler(4, 20, kernel=kernel)
    scheduler.set_timesteps(3)
    logits = torch.randn(2, 4, 30, 30, generator=seeded())
    sample, noise = random_labels(4, 2, 1, 30, 30), random_noise(2, 30, 30)
    for t, previous in ((19, 10), (10, 0)):
        found, estimate = scheduler.step(logits, t, sample, noise=noise)
        assert torch.equal(estimate, logits.argmax(1, keepdim=True))
        assert torch.equal(found, scheduler.add_noise(estimate, noise, torch.tensor([previous])))
    # Without noise of its own a step draws both channels.
    found, estimate = scheduler.step(logits[:1].mul(0).repeat(1, 1, 4, 4), 19, sample[:1].repeat(1, 1, 4, 4))
    keep = float(scheduler.alphas_cumprod[10])
    lost = [(1 - keep) / 4] * 4 if kernel == "uniform" else [0.0] * 4 + [1 - keep]
    # Four standard errors of 14,400 draws are at most 0.017.
    expected = [lost[0] + keep, *lost[1:]]
    assert shares(found, scheduler.num_states).tolist() == pytest.approx(expected, abs=0.017)


@EACH_KERNEL
@EACH_SAMPLER
@EACH_SPACE
@pytest.mark.parametrize("steps", [1, 2, 3, 20])
def test_an_oracle_recovers_the_labels(kernel: str, sampler: str, space: tuple[int, ...], steps: int) -> None:
    scheduler = CategoricalScheduler(3, 20, kernel=kernel, sampler=sampler)
    scheduler.set_timesteps(steps)
    oracle = random_labels(3, 2, 1, *space)
    states = sample_all(scheduler, oracle)
    assert len(states) == steps + 1
    assert torch.equal(states[-1], oracle)
    assert all(state.dtype == torch.int64 and state.shape == oracle.shape for state in states)
    if steps > 1:
        # Level 0 is almost clean, pure noise is not.
        assert torch.equal(states[-2], oracle)
        assert not torch.equal(states[0], oracle)


@EACH_KERNEL
def test_marginals_of_a_posterior_trajectory(kernel: str) -> None:
    """With an oracle the states follow q(x_t | x_0), also between kept steps that are far apart."""
    scheduler = CategoricalScheduler(3, 20, kernel=kernel, sampler="posterior")
    scheduler.set_timesteps(5)
    states = sample_all(scheduler, torch.ones(1, 1, 150, 150, dtype=torch.long))
    for t, state in zip(scheduler.timesteps.tolist(), states, strict=False):
        keep = float(scheduler.alphas_cumprod[t])
        lost = [(1 - keep) / 3] * 3 if kernel == "uniform" else [0.0] * 3 + [1 - keep]
        expected = [lost[0], lost[1] + keep, *lost[2:]]
        # Four standard errors of 22,500 draws are at most 0.014.
        assert shares(state, scheduler.num_states).tolist() == pytest.approx(expected, abs=0.014)


@EACH_KERNEL
@EACH_SAMPLER
def test_generator_decides_the_samples(kernel: str, sampler: str) -> None:
    scheduler = CategoricalScheduler(3, 20, kernel=kernel, sampler=sampler)
    scheduler.set_timesteps(3)
    oracle = random_labels(3, 1, 1, 16, 16)
    before = torch.get_rng_state()
    first, again, other = (torch.stack(sample_all(scheduler, oracle, seed)) for seed in (5, 5, 6))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, again)
    assert not torch.equal(first[1:], other[1:])


@EACH_KERNEL
@EACH_SAMPLER
def test_calls_change_neither_the_scheduler_nor_their_arguments(kernel: str, sampler: str) -> None:
    scheduler = CategoricalScheduler(3, 20, kernel=kernel, sampler=sampler)
    arguments = [random_labels(3, 1, 1, 4, 4), random_noise(1, 4, 4), torch.tensor([7]), torch.randn(1, 3, 4, 4)]
    before = pickle.dumps((scheduler, arguments))
    labels, noise, level, logits = arguments
    scheduler.pure_noise(noise)
    scheduler.add_noise(labels, noise, level)
    scheduler.posterior(labels, 7, 3, labels)
    for t in (7, 0):
        scheduler.step(logits, t, labels, noise=noise)
    with pytest.raises(NotImplementedError, match="velocity"):
        scheduler.get_velocity(labels, noise, level)
    assert pickle.dumps((scheduler, arguments)) == before


def test_copies_and_moves() -> None:
    scheduler = CategoricalScheduler(3)
    twin = copy.deepcopy(scheduler)
    twin.set_timesteps(2)
    assert len(scheduler.timesteps) == 20
    moved = twin.to("meta")
    assert {buffer.device.type for buffer in (moved.betas, moved.alphas, moved.alphas_cumprod)} == {"meta"}
    assert moved.timesteps.device.type == "cpu"
    assert scheduler.alphas_cumprod.device.type == "cpu"
    assert scheduler.state_dict() == {}


def test_other_types_give_the_same_labels() -> None:
    scheduler, labels, noise = CategoricalScheduler(3), random_labels(3, 2, 1, 6, 6), random_noise(2, 6, 6)
    expected = scheduler.add_noise(labels, noise, torch.tensor([9, 4]))
    levels = torch.tensor([9, 4], dtype=torch.int32)
    for other in (labels.to(torch.uint8), labels.to(torch.int32), MetaTensor(labels)):
        found = scheduler.add_noise(other, noise.double(), levels)
        assert found.dtype == torch.int64
        assert (found == expected).all()
    logits = torch.randn(2, 3, 6, 6, generator=seeded()).bfloat16()
    posterior = CategoricalScheduler(3, sampler="posterior")
    for one in (scheduler, posterior):
        found, same = (torch.cat(one.step(values, 9, labels, noise)) for values in (logits, logits.float()))
        assert torch.equal(found, same)


LABELS, NOISE, LEVEL = torch.zeros(1, 1, 4, 4).long(), torch.zeros(1, 2, 4, 4), torch.tensor([3])
LOGITS, SOFT = torch.zeros(1, 3, 4, 4), torch.full((1, 3, 4, 4), 1 / 3)
NEGATIVE = torch.tensor([1.0, -0.5, 0.5]).reshape(1, 3, 1, 1).expand(1, 3, 4, 4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: s.set_timesteps(0), "1..20, found 0"),
        (lambda s: s.set_timesteps(21), "1..20, found 21"),
        (lambda s: s.add_noise(LABELS + 4, NOISE, LEVEL), "original_samples must lie in 0..2, found values from 4 to"),
        (lambda s: s.add_noise(LABELS - 1, NOISE, LEVEL), "must lie in 0..2, found values from -1 to -1"),
        (lambda s: s.add_noise(LABELS.float(), NOISE, LEVEL), "original_samples must hold integers, found torch.float"),
        (lambda s: s.add_noise(LABELS.bool(), NOISE, LEVEL), "original_samples must hold integers, found torch.bool"),
        (lambda s: s.add_noise(LABELS[0], NOISE, LEVEL), "[B, 1, *spatial] and not be empty, found [1, 4, 4]"),
        (lambda s: s.add_noise(LABELS[0, 0], NOISE, LEVEL), "[B, 1, *spatial] and not be empty, found [4, 4]"),
        (lambda s: s.add_noise(LABELS[:0], NOISE[:0], LEVEL), "not be empty, found [0, 1, 4, 4]"),
        (lambda s: s.add_noise(LABELS, NOISE[:, :1], LEVEL), "noise must have shape [1, 2, 4, 4], found [1, 1, 4, 4]"),
        (lambda s: s.add_noise(LABELS, NOISE[..., :1], LEVEL), "must have shape [1, 2, 4, 4], found [1, 2, 4, 1]"),
        (lambda s: s.add_noise(LABELS, NOISE - 0.5, LEVEL), "in [0, 1), found torch.float32 from -0.5 to -0.5"),
        (lambda s: s.add_noise(LABELS, NOISE + 1, LEVEL), "in [0, 1), found torch.float32 from 1 to 1"),
        (lambda s: s.add_noise(LABELS, NOISE * torch.nan, LEVEL), "in [0, 1), found torch.float32 from nan to nan"),
        (lambda s: s.add_noise(LABELS, NOISE.half(), LEVEL), "noise must be float32 or float64"),
        (lambda s: s.add_noise(LABELS, NOISE.long(), LEVEL), "noise must be float32 or float64"),
        (lambda s: s.add_noise(LABELS, NOISE, LEVEL - 4), "timesteps must lie in 0..19, found values from -1 to -1"),
        (lambda s: s.add_noise(LABELS, NOISE, LEVEL + 17), "timesteps must lie in 0..19, found values from 20 to 20"),
        (lambda s: s.add_noise(LABELS, NOISE, LEVEL.float()), "timesteps must hold integers"),
        (lambda s: s.add_noise(LABELS, NOISE, LEVEL[0]), "timesteps must have shape [1] or [1], found []"),
        (lambda s: s.add_noise(LABELS, NOISE, LEVEL.repeat(2)), "timesteps must have shape [1] or [1], found [2]"),
        (lambda s: s.pure_noise(LABELS.float()), "noise must have shape [B, 2, *spatial]"),
        (lambda s: s.pure_noise(NOISE + 1), "in [0, 1)"),
        (lambda s: s.posterior(LABELS, 3, 3, LABELS), "-1 <= s < t <= 19, found s=3 and t=3"),
        (lambda s: s.posterior(LABELS, 20, 3, LABELS), "found s=3 and t=20"),
        (lambda s: s.posterior(LABELS, 3, -2, LABELS), "found s=-2 and t=3"),
        (lambda s: s.posterior(LABELS, 3, 1, LABELS + 3), "sample must lie in 0..2, found values from 3 to 3"),
        (lambda s: s.posterior(LABELS + 3, 3, 1, LABELS), "prediction must lie in 0..2, found values from 3 to 3"),
        (lambda s: s.posterior(LABELS[..., :1], 3, 1, LABELS), "must have shape [1, 1, 4, 4], found [1, 1, 4, 1]"),
        (lambda s: s.posterior(SOFT[:, :2], 3, 1, LABELS), "must have shape [1, 3, 4, 4], found [1, 2, 4, 4]"),
        (lambda s: s.posterior(SOFT * 2, 3, 1, LABELS), "sum to 1 over the channels, found values from 0.6667 to"),
        (lambda s: s.posterior(NEGATIVE, 3, 1, LABELS), "found values from -0.5 to 1"),
        (lambda s: s.posterior(SOFT * torch.nan, 3, 1, LABELS), "found values from nan to nan"),
        (lambda s: s.step(LOGITS, 20, LABELS), "timestep 20 is not one of the kept steps [19, 18"),
        (lambda s: s.step(LOGITS[:, :2], 3, LABELS), "model_output must have shape [1, 3, 4, 4], found [1, 2, 4, 4]"),
        (lambda s: s.step(LOGITS, 3, LABELS[:, 0]), "sample must have shape [B, 1, *spatial]"),
        (lambda s: s.step(LOGITS, 3, LABELS, NOISE[:, :1]), "noise must have shape [1, 2, 4, 4]"),
        (lambda s: s.step(LOGITS, 3, LABELS, NOISE - 1), "in [0, 1)"),
        (lambda s: s.step(LOGITS, 3, LABELS + 3), "sample must lie in 0..2, found values from 3 to 3"),
    ],
)
def test_bad_calls(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        call(CategoricalScheduler(3, sampler="posterior"))


def test_a_step_that_was_not_kept() -> None:
    scheduler = CategoricalScheduler(3)
    scheduler.set_timesteps(2)
    with pytest.raises(ValueError, match=r"timestep 10 is not one of the kept steps \[19, 0\]"):
        scheduler.step(LOGITS, 10, LABELS)


def test_the_mask_token_is_a_state_but_not_a_class() -> None:
    scheduler = CategoricalScheduler(3, kernel="absorbing")
    scheduler.posterior(LABELS, 3, 1, LABELS + 3)
    with pytest.raises(ValueError, match=r"original_samples must lie in 0\.\.3, found values from 4 to 4"):
        scheduler.add_noise(LABELS + 4, NOISE, LEVEL)
    with pytest.raises(ValueError, match=r"prediction must lie in 0\.\.2, found values from 3 to 3"):
        scheduler.posterior(LABELS + 3, 3, 1, LABELS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 1}, "num_classes must be at least 2, found 1"),
        ({"kernel": "gaussian"}, "Unsupported option"),
        ({"sampler": "ddim"}, "Unsupported option"),
        ({"num_train_timesteps": 1}, "num_train_timesteps must be at least 2, found 1"),
        ({"schedule": "linear_beta", "beta_start": 0.0}, r"'linear_beta' must give alphas_cumprod in \[0, 1\)"),
        ({"schedule": "linear_beta", "beta_start": -0.1, "beta_end": 0.2}, "fall at every step"),
        ({"schedule": "linear_beta", "beta_start": 0.1, "beta_end": 1.1}, "fall at every step"),
    ],
)
def test_bad_options(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CategoricalScheduler(**({"num_classes": 3} | arguments))
