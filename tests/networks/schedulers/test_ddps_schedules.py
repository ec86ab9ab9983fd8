# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import pytest
import torch
from monai.networks.schedulers import DDPMScheduler, NoiseSchedules

from monai_segdiff.networks.schedulers import ddps_cosine, ddps_linear

EACH = pytest.mark.parametrize("schedule", [ddps_linear, ddps_cosine])


@pytest.mark.parametrize(
    ("schedule", "steps", "expected"),
    [
        (ddps_linear, 20, {0: 0.99999, 5: 0.736837, 10: 0.473684, 18: 0.0526396, 19: 9e-6}),
        (ddps_linear, 100, {0: 0.99999, 33: 0.666663, 99: 9e-6}),
        (ddps_linear, 2, {0: 0.99999, 1: 9e-6}),
        # T/4 and T/2 are levels 5 and 10.
        (ddps_cosine, 20, {0: 0.99999, 5: 0.3810815, 10: 0.0857938, 19: 1.850265e-5}),
        (ddps_cosine, 100, {0: 0.99999, 25: 0.3810815, 50: 0.0857938}),
        (ddps_cosine, 10, {9: 1.605741e-4}),
        (ddps_cosine, 5, {4: 2.404419e-3}),
        (ddps_cosine, 2, {0: 0.99999, 1: 0.0857938}),
    ],
)
def test_published_values(schedule: Any, steps: int, expected: dict[int, float]) -> None:
    keep = schedule(steps)[2]
    assert keep.dtype == torch.float64
    assert keep.shape == (steps,)
    for level, value in expected.items():
        assert keep[level].item() == pytest.approx(value, rel=2e-6)


@EACH
@pytest.mark.parametrize("steps", [2, 20, 1000])
def test_single_steps_multiply_to_the_table(schedule: Any, steps: int) -> None:
    betas, alphas, keep = schedule(steps)
    assert betas.dtype == alphas.dtype == torch.float64
    assert ((alphas > 0) & (alphas < 1)).all()
    torch.testing.assert_close(alphas.cumprod(0), keep, rtol=1e-9, atol=0)
    torch.testing.assert_close(betas, 1 - alphas, rtol=1e-12, atol=0)


@EACH
@pytest.mark.parametrize("steps", [1, 0, -3])
def test_too_few_steps(schedule: Any, steps: int) -> None:
    with pytest.raises(ValueError, match=f"num_train_timesteps must be at least 2, found {steps}"):
        schedule(steps)


@EACH
def test_registered_for_monai_schedulers(schedule: Any) -> None:
    assert schedule.__name__ in NoiseSchedules
    scheduler = DDPMScheduler(num_train_timesteps=20, schedule=schedule.__name__)
    assert torch.equal(scheduler.alphas_cumprod, schedule(20)[2])
