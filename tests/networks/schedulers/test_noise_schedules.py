# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from monai.networks.schedulers import DDPMScheduler, NoiseSchedules

from monai_segdiff.networks.schedulers import segdiff_linear_beta


@pytest.mark.parametrize(
    ("steps", "first", "last", "alpha_bar"),
    [(21, 0.00476, 0.952, 8.0e-9), (25, 0.004, 0.8, 2.4e-7), (100, 0.001, 0.2, 2.04e-5), (200, 0.0005, 0.1, 3.0e-5)],
)
def test_published_values(steps: int, first: float, last: float, alpha_bar: float) -> None:
    betas = segdiff_linear_beta(steps)
    assert betas.dtype == torch.float64
    assert betas[0].item() == pytest.approx(first, rel=2e-3)
    assert betas[-1].item() == pytest.approx(last, rel=2e-3)
    assert (1 - betas).prod().item() == pytest.approx(alpha_bar, rel=2e-2)


@pytest.mark.parametrize("steps", [20, 10, 1])
def test_too_few_steps(steps: int) -> None:
    with pytest.raises(ValueError, match=f"num_train_timesteps={steps} .* at least 21"):
        segdiff_linear_beta(steps)


def test_registered_for_monai_schedulers() -> None:
    assert "segdiff_linear_beta" in NoiseSchedules
    scheduler = DDPMScheduler(num_train_timesteps=100, schedule="segdiff_linear_beta")
    assert torch.equal(scheduler.betas, segdiff_linear_beta(100))
