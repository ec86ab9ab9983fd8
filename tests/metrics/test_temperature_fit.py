# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit
from sklearn.metrics import log_loss

from monai_segdiff.metrics.temperature_fit import PROBABILITY_CLIP, fit_temperature, negative_log_likelihood


def exact_pixels(temperature: float, pixels: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Groups of pixels whose share of foreground is exactly sigmoid(z), predicted as sigmoid(z * temperature)."""
    shares = np.arange(12, pixels - 11) / pixels
    truth = np.arange(pixels)[None, :] < np.arange(12, pixels - 11)[:, None]
    return np.broadcast_to(expit(logit(shares) * temperature)[:, None], truth.shape), truth


@pytest.mark.parametrize("temperature", [0.1, 0.5, 1.0, 2.0, 7.5])
def test_exact_shares_give_the_exact_temperature(temperature: float) -> None:
    assert fit_temperature(*exact_pixels(temperature)) == pytest.approx(temperature, rel=1e-9)


def test_drawn_pixels_give_about_the_temperature() -> None:
    generator = np.random.default_rng(0)
    z = generator.normal(0, 1.2, 200_000)
    assert fit_temperature(expit(2 * z), generator.random(z.shape) < expit(z)) == pytest.approx(2, rel=0.02)


def noisy_image(seed: int, shape: tuple[int, ...] = (20, 31)) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    p = generator.beta(0.3, 0.4, shape).astype(np.float32)
    p.flat[:6] = (0, 1, 0, 1, 0.5, 0.5)
    return p, generator.random(shape) < 0.3 + 0.5 * p


def test_slope_is_zero_and_the_minimum_is_that_of_a_search() -> None:
    p, y = noisy_image(0)
    found = fit_temperature(p, y)
    step = 1e-4
    slope = (negative_log_likelihood(p, y, found + step) - negative_log_likelihood(p, y, found - step)) / (2 * step)
    elsewhere = negative_log_likelihood(p, y, 1.1 * found) - negative_log_likelihood(p, y, found)
    assert abs(slope) < 1e-6
    assert elsewhere > 1e-5
    search = minimize_scalar(lambda log: negative_log_likelihood(p, y, math.exp(log)), bounds=(-3, 3), method="bounded")
    assert found == pytest.approx(math.exp(search.x), rel=1e-3)


def test_several_images_are_pooled() -> None:
    images = [noisy_image(seed, shape) for seed, shape in enumerate([(4, 5), (30, 7), (2, 3, 4)])]
    ps, ys = ([image[part] for image in images] for part in (0, 1))
    flat = [np.concatenate([one.ravel() for one in part]) for part in (ps, ys)]
    assert fit_temperature(ps, tuple(ys)) == pytest.approx(fit_temperature(*flat), rel=1e-9)
    assert negative_log_likelihood(ps, ys, 1.7) == pytest.approx(negative_log_likelihood(*flat, 1.7), rel=1e-12)


@pytest.mark.parametrize("temperature", [0.7, 1.0, 20.0])
def test_likelihood_is_the_log_loss_of_scaled_probabilities(temperature: float) -> None:
    p, y = (one.ravel() for one in noisy_image(1))
    scaled = expit(logit(p.astype(float).clip(PROBABILITY_CLIP, 1 - PROBABILITY_CLIP)) / temperature)
    assert negative_log_likelihood(p, y, temperature) == pytest.approx(log_loss(y, scaled), rel=1e-9)


def test_likelihood_where_probabilities_round_to_one() -> None:
    # logit(0.9999) / 0.01 = 921.
    found = negative_log_likelihood(np.array([1.0, 1.0]), np.array([0, 1]), 0.01)
    assert found == pytest.approx(math.log(9999) / 0.01 / 2)


@pytest.mark.parametrize(
    ("probability", "truth", "expected"),
    [
        ([0.2, 0.9], [0, 1], 0.05),  # all right
        ([0.0, 0.0], [0, 0], 0.05),  # empty prediction, empty truth
        ([0.0, 0.0], [1, 1], 20.0),  # empty prediction only
        ([1.0, 1.0], [0, 0], 20.0),  # empty truth only
        ([0.9, 0.9], [0, 1], 20.0),  # says nothing
        ([0.9, 0.2], [0, 1], 20.0),  # the opposite
        ([0.5, 0.5], [0, 1], 1.0),
        ([0.5, 0.5], [1, 1], 1.0),
    ],
)
def test_bounds(probability: list, truth: list, expected: float) -> None:
    assert fit_temperature(np.array(probability), np.array(truth)) == expected


@pytest.mark.parametrize(
    ("probability", "truth", "message"),
    [
        ([0.1, 1.1], [0, 1], "probability has values from 0.1 to 1.1, expected 0 to 1"),
        ([-0.1, 1.0], [0, 1], "probability has values from -0.1 to 1"),
        ([0.1, np.nan], [0, 1], "probability has values from nan to nan"),
        ([0.1, 0.2], [0, 2], "truth has values from 0 to 2, expected only 0 and 1"),
        ([0.1, 0.2], [0, np.nan], "truth has values from nan to nan"),
        ([0.1, 0.2], [0], r"shapes \[\(2,\)\] and truth \[\(1,\)\]"),
        ([], [], "at least one pixel"),
    ],
)
def test_bad_pixels(probability: list, truth: list, message: str) -> None:
    for function in (fit_temperature, negative_log_likelihood):
        with pytest.raises(ValueError, match=message):
            function(np.array(probability), np.array(truth))


def test_bad_lists() -> None:
    with pytest.raises(ValueError, match="expected the same"):
        fit_temperature([np.ones(2), np.ones(2)], [np.ones(2)])
    with pytest.raises(ValueError, match="at least one pixel"):
        fit_temperature([], [])


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_bad_temperature(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature is"):
        negative_log_likelihood(np.array([0.5]), np.array([1]), temperature)
