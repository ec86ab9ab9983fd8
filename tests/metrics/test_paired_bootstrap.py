# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from monai_segdiff.metrics import bootstrap_interval
from monai_segdiff.metrics.paired_bootstrap import paired_bootstrap


@pytest.mark.parametrize(
    "change", [(-1.0, 3.0), (-2.0, 1.0, 4.0), (0.5, 0.25, 1.0), (-2.0, 2.0), (-3.0, -1.0, -1.0, 2.0)]
)
def test_against_every_possible_resample(change: tuple[float, ...]) -> None:
    second = np.linspace(0.1, 0.9, len(change))
    found = paired_bootstrap(np.add(second, change), second)
    means = np.array([np.mean(draw) for draw in product(change, repeat=len(change))])
    assert found.difference == pytest.approx(np.mean(change))
    # The ends are atoms of the distribution, so that they are met exactly.
    expected = np.quantile(means, (0.025, 0.975), method="inverted_cdf")
    assert found.interval == pytest.approx(tuple(expected))
    # Standard error of a share of 10,000 draws: 0.005 at most.
    assert found.share_not_above == pytest.approx((means <= 1e-9).mean(), abs=0.02)


def test_draws_whose_mean_is_zero_but_for_rounding_are_not_above() -> None:
    # In every resample with a mean of 0, 0.1 + 0.2 - 0.3 is 5.6e-17.
    change = [0.1, 0.2, -0.3]
    means = np.array([np.mean(draw).round(9) for draw in product(change, repeat=3)])
    found = paired_bootstrap(change, [0, 0, 0])
    assert found.share_not_above == pytest.approx((means <= 0).mean(), abs=0.02)
    assert (means == 0).mean() > 0.2


def test_interval_is_that_of_the_differences() -> None:
    draw = np.random.default_rng(0)
    first, second = draw.random((2, 60))
    found = paired_bootstrap(first, second, n_resamples=500, confidence_level=0.8, seed=3)
    assert found.interval == bootstrap_interval(first - second, n_resamples=500, confidence_level=0.8, seed=3)
    assert found.interval != paired_bootstrap(first, second, n_resamples=500, confidence_level=0.8, seed=4).interval
    assert found == paired_bootstrap(list(first), list(second), n_resamples=500, confidence_level=0.8, seed=3)


def test_swapped_methods_give_the_mirror_image() -> None:
    draw = np.random.default_rng(1)
    second = draw.random(50)
    first = second + draw.normal(0.02, 0.1, 50)
    one, other = paired_bootstrap(first, second), paired_bootstrap(second, first)
    assert one.difference == -other.difference == pytest.approx(np.mean(first - second))
    assert one.interval == pytest.approx((-other.interval[1], -other.interval[0]))
    assert one.share_not_above + other.share_not_above == pytest.approx(1)
    assert one.share_not_above < 0.5


def test_pairing_narrows_the_interval() -> None:
    hard = np.random.default_rng(2).random(100)
    low, high = paired_bootstrap(hard + 0.01 * np.cos(np.arange(100)) + 0.005, hard).interval
    assert 0 < low < 0.005 < high < 0.01


@pytest.mark.parametrize(("change", "share"), [(0.25, 0.0), (0.0, 1.0), (-0.25, 1.0)])
def test_equal_differences(change: float, share: float) -> None:
    second = np.array([0.25, 0.5, 0.75])
    assert paired_bootstrap(second + change, second) == (change, (change, change), share)


def test_one_image_says_nothing_of_others() -> None:
    assert paired_bootstrap([0.75], [0.5]) == (0.25, None, None)


def test_global_random_state_is_left_alone() -> None:
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    paired_bootstrap([0.1, 0.2], [0.2, 0.1])
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ([0.1, 0.2], [0.1], r"first has shape \(2,\) and second \(1,\)"),
        ([], [], r"expected one score of each for every image, at least one"),
        ([[0.1]], [[0.2]], r"first has shape \(1, 1\)"),
        ([0.1, None], [0.2, 0.3], "NaN or infinity"),
        ([0.1, 0.2], [0.2, float("inf")], "NaN or infinity"),
    ],
)
def test_errors(first: list, second: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        paired_bootstrap(first, second)
