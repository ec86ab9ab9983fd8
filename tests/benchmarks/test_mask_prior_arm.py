# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from benchmarks.mask_prior_arm import WEIGHTS, mask_prior_arms

NOISE = ("re_noise", "noise")
# Weights, then steps, sampler, start, generations and share of the base.
EXPECTED = {
    "base": ("first_prediction", 0, *NOISE, 1, 0.0),
    "head, one step": ("single_step", 1, *NOISE, 1, 0.0),
    "DDPS, first step": ("first_prediction", 1, *NOISE, 1, 0.0),
    "DDPS, 3 steps": ("first_prediction", 3, *NOISE, 1, 0.0),
    "DDPS, 5 steps": ("first_prediction", 5, *NOISE, 1, 0.0),
    "DDPS, 10 steps": ("first_prediction", 10, *NOISE, 1, 0.0),
    "DDPS, 3 steps, posterior": ("first_prediction", 3, "posterior", "noise", 1, 0.0),
    "DDPS, 3 steps, from base": ("first_prediction", 3, "re_noise", "base_prediction", 1, 0.0),
    "DDPS, 3 steps, 5 samples": ("first_prediction", 3, *NOISE, 5, 0.0),
    "noise on truth, 3 steps": ("ground_truth", 3, *NOISE, 1, 0.0),
    "ensemble, base + head": ("single_step", 1, *NOISE, 1, 0.5),
    "ensemble, base + DDPS": ("first_prediction", 3, *NOISE, 1, 0.5),
}


def test_the_arms() -> None:
    arms = mask_prior_arms(WEIGHTS, 20)
    assert {arm.name: (arm.weights, *arm.settings.values()) for arm in arms} == EXPECTED
    names = ["num_inference_steps", "sampler", "start", "num_generations", "base_weight"]
    assert all(list(arm.settings) == names for arm in arms)
    assert [arm.name for arm in arms] == list(EXPECTED)
    assert len({arm.folder for arm in arms}) == len(arms)
    assert arms[-2].folder == "ensemble_base_head"


@pytest.mark.parametrize("missing", ["single_step", "ground_truth"])
def test_arms_without_their_weights_are_left_out(missing: str) -> None:
    arms = mask_prior_arms([name for name in WEIGHTS if name != missing], 20)
    assert [arm.name for arm in arms] == [name for name, (weights, *_) in EXPECTED.items() if weights != missing]


@pytest.mark.parametrize(
    ("timesteps", "left_out"),
    [
        (10, []),
        (9, ["DDPS, 10 steps"]),
        (4, ["DDPS, 5 steps", "DDPS, 10 steps"]),
        (3, ["DDPS, 5 steps", "DDPS, 10 steps", "DDPS, 3 steps, from base"]),
    ],
)
def test_arms_of_more_steps_than_the_training_are_left_out(timesteps: int, left_out: list[str]) -> None:
    found = {arm.name for arm in mask_prior_arms(WEIGHTS, timesteps)}
    assert EXPECTED.keys() - found == set(left_out)
