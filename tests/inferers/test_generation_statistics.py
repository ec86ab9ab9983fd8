# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from monai_segdiff import GenerationStatistics, ProbabilityToMask
from monai_segdiff.inferers.generation_statistics import (
    CategoricalUncertaintyStatistics,
    KeptGenerations,
    RunningStatistics,
    UncertaintyStatistics,
    mask_to_probability,
)


def tally_of(generations: torch.Tensor) -> UncertaintyStatistics:
    tally = UncertaintyStatistics()
    for generation in generations:
        tally.add(generation)
    return tally


def test_each_generation_is_clamped() -> None:
    masks = torch.tensor([-7.0, -1.0, 0.0, 0.5, 1.0, 3.0])
    assert mask_to_probability(masks).tolist() == [0.0, 0.0, 0.5, 0.75, 1.0, 1.0]


def test_hand_made_values() -> None:
    # Four generations of four pixels: agreed background, agreed foreground, a tie, and one dissenter.
    generations = torch.tensor([[0.0, 1, 1, 1], [0, 1, 1, 1], [0, 1, 0, 1], [0, 1, 0, 0]]).reshape(4, 1, 1, 4)
    tally = tally_of(generations)
    assert tally.count == 4
    statistics = GenerationStatistics.from_maps(*tally.maps())
    assert statistics.mean.flatten().tolist() == [0, 1, 0.5, 0.75]
    assert statistics.variance.flatten().tolist() == [0, 0, 0.25, 0.1875]
    assert statistics.standard_deviation.flatten().tolist() == [0, 0, 0.5, pytest.approx(0.1875**0.5)]
    dissent = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    torch.testing.assert_close(statistics.entropy.flatten(), torch.tensor([0, 0, math.log(2), dissent]))
    # Each generation is certain of itself: all uncertainty is disagreement.
    assert torch.equal(statistics.mutual_information, statistics.entropy)


@pytest.mark.parametrize("count", [1, 2, 9, 30])
def test_mutual_information_against_numpy(count: int) -> None:
    values = np.random.default_rng(count).normal(0.5, 0.4, (count, 500)).clip(0, 1).astype(np.float32)

    def entropy(p: np.ndarray) -> np.ndarray:
        p = p.astype(np.float64)
        return -sum(np.where(q > 0, q * np.log(np.maximum(q, 1e-300)), 0) for q in (p, 1 - p))

    found = GenerationStatistics.from_maps(*tally_of(torch.from_numpy(values)).maps())
    expected = entropy(values.astype(np.float64).mean(0)) - entropy(values).mean(0)
    np.testing.assert_allclose(found.mutual_information.numpy(), expected, atol=1e-6)
    assert (found.mutual_information >= 0).all()
    assert (found.mutual_information <= found.entropy + 1e-6).all()
    if count == 1:
        assert not found.mutual_information.any()


def categorical_of(generations: torch.Tensor) -> GenerationStatistics:
    tally = CategoricalUncertaintyStatistics()
    for generation in generations:
        tally.add(generation)
    return GenerationStatistics.from_maps(*tally.maps())


def test_hand_made_values_of_classes() -> None:
    # Four generations of three pixels of three classes: agreed, split evenly over two, and one dissenter.
    votes = torch.tensor([[2, 0, 1], [2, 0, 1], [2, 1, 1], [2, 1, 0]])
    found = categorical_of(torch.nn.functional.one_hot(votes, 3).float().movedim(-1, 1)[:, None])
    assert found.mean.shape == found.variance.shape == (1, 3, 3)
    assert found.mean[0].T.tolist() == [[0, 0, 1], [0.5, 0.5, 0], [0.25, 0.75, 0]]
    variance = torch.tensor([[0, 0, 0], [0.25, 0.25, 0], [0.1875, 0.1875, 0]])
    torch.testing.assert_close(found.variance[0].T, variance)
    dissent = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    torch.testing.assert_close(found.entropy, torch.tensor([[[0, math.log(2), dissent]]]))
    assert torch.equal(found.mutual_information, found.entropy)


@pytest.mark.parametrize("count", [1, 2, 9])
@pytest.mark.parametrize("classes", [2, 3, 5])
def test_information_about_classes_against_scipy(count: int, classes: int) -> None:
    values = np.random.default_rng(count).dirichlet(np.full(classes, 0.5), (count, 2, 4, 6)).astype(np.float32)
    found = categorical_of(torch.from_numpy(np.moveaxis(values, -1, 2)))
    assert found.entropy.shape == found.mutual_information.shape == (2, 1, 4, 6)
    total = stats.entropy(values.mean(0, dtype=np.float64), axis=-1)
    np.testing.assert_allclose(found.entropy[:, 0].numpy(), total, atol=1e-5)
    expected = total - stats.entropy(values.astype(np.float64), axis=-1).mean(0)
    np.testing.assert_allclose(found.mutual_information[:, 0].numpy(), expected, atol=1e-5)
    assert (found.mutual_information >= 0).all()
    assert found.entropy.max() <= math.log(classes) + 1e-6


def test_two_classes_are_a_mask() -> None:
    values = torch.rand(5, 1, 1, 50, generator=torch.Generator().manual_seed(0))
    mask = GenerationStatistics.from_maps(*tally_of(values).maps())
    classes = categorical_of(torch.cat([1 - values, values], dim=2))
    for name in ("entropy", "mutual_information"):
        torch.testing.assert_close(getattr(classes, name), getattr(mask, name), atol=1e-6, rtol=0)
    assert torch.equal(classes.mean[:, 1:], mask.mean)


def test_agreeing_generations_have_entropy_but_no_mutual_information() -> None:
    found = GenerationStatistics.from_maps(*tally_of(torch.full((7, 3), 0.3)).maps())
    assert (found.entropy > 0.6).all()
    assert found.mutual_information.max() < 1e-6


@pytest.mark.parametrize("count", [1, 2, 3, 9, 30, 300])
@pytest.mark.parametrize("kind", ["uniform", "saturated", "almost equal", "mixed"])
def test_mean_and_variance_against_numpy(count: int, kind: str) -> None:
    draw = np.random.default_rng(count)
    values = {
        "uniform": draw.random((count, 2, 50)),
        "saturated": draw.integers(0, 2, (count, 2, 50)),
        # Where the mean of squares less the square of the mean would be rounding only.
        "almost equal": 0.7 + 1e-4 * draw.random((count, 2, 50)),
        "mixed": draw.normal(0.5, 1, (count, 2, 50)).clip(0, 1),
    }[kind].astype(np.float32)
    tally = tally_of(torch.from_numpy(values))
    mean, variance = (found.double().numpy() for found in tally.maps()[:2])
    exact = values.astype(np.float64)
    assert tally.count == count
    assert tally.mean.dtype == tally.variance.dtype == torch.float32
    np.testing.assert_allclose(mean, exact.mean(0), atol=1e-6)
    # Small variances to a relative precision of their own.
    np.testing.assert_allclose(variance, exact.var(0), rtol=1e-2, atol=1e-12)
    assert variance.max() <= 0.25 + 1e-6
    if count == 1:
        assert not variance.any()


@pytest.mark.parametrize("count", range(2, 31, 2))
def test_ties_are_exactly_one_half_in_any_order(count: int) -> None:
    pixels = torch.zeros(count, 200)
    pixels[: count // 2] = 1
    generator = torch.Generator().manual_seed(count)
    shuffled = torch.stack([column[torch.randperm(count, generator=generator)] for column in pixels.T], 1)
    mean = tally_of(shuffled).mean
    assert (mean == 0.5).all()
    # A tie is background, one vote more is not.
    assert not ProbabilityToMask()(mean[None]).any()
    first = (shuffled == 0).float().argmax(0)
    shuffled[first, torch.arange(200)] = 1
    assert ProbabilityToMask()(tally_of(shuffled).mean[None]).all()


@pytest.mark.parametrize("count", [3, 7, 9, 30])
def test_saturated_means_are_the_nearest_floats_to_the_votes(count: int) -> None:
    votes = torch.arange(count + 1)
    generations = (torch.arange(count)[:, None] < votes).float()
    assert torch.equal(tally_of(generations).mean, votes / count)


def test_what_is_given_is_not_changed() -> None:
    generations = torch.rand(5, 3, generator=torch.Generator().manual_seed(0))
    before = generations.clone()
    tally = tally_of(generations[:2])
    early = tally.mean, tally.variance
    copies = [value.clone() for value in early]
    for generation in generations[2:]:
        tally.add(generation)
    assert torch.equal(generations, before)
    assert all(torch.equal(value, copy) for value, copy in zip(early, copies, strict=True))


def test_entropy() -> None:
    mean = torch.linspace(0, 1, 101)
    entropy = GenerationStatistics.from_maps(mean, torch.zeros(101), torch.zeros(101)).entropy
    inside = mean[1:-1].double()
    expected = -(inside * inside.log() + (1 - inside) * (1 - inside).log())
    torch.testing.assert_close(entropy[1:-1].double(), expected, atol=1e-6, rtol=0)
    assert entropy[0] == entropy[-1] == 0
    assert entropy.max() == entropy[50] == pytest.approx(math.log(2))


def test_running_statistics_are_the_first_two() -> None:
    tallies = RunningStatistics(), UncertaintyStatistics()
    for generation in torch.rand(4, 9, generator=torch.Generator().manual_seed(0)):
        for tally in tallies:
            tally.add(generation)
    assert all(torch.equal(*pair) for pair in zip(tallies[0].maps(), tallies[1].maps()[:2], strict=True))


def test_kept_generations_are_returned_as_they_came() -> None:
    tally, generations = KeptGenerations(), list(torch.rand(3, 1, 1, 4, generator=torch.Generator().manual_seed(0)))
    assert tally.count == 0
    for count, generation in enumerate(generations, 1):
        tally.add(generation)
        assert tally.count == count
    maps = tally.maps()
    assert len(maps) == 3
    assert all(found is given for found, given in zip(maps, generations, strict=True))
