# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch

from monai_segdiff import RespacedDDIMScheduler, RespacedDDPMScheduler


def test_full_eta_is_ancestral_with_the_posterior_variance() -> None:
    ddim = RespacedDDIMScheduler(100, eta=1.0)
    ddpm = RespacedDDPMScheduler(100, variance_type="fixed_small")
    x, output, noise = (torch.randn(1, 1, 4, 4).double() for _ in range(3))
    for scheduler in (ddim, ddpm):
        scheduler.set_timesteps(7)
    for t in ddim.timesteps.tolist():
        torch.testing.assert_close(ddim.step(output, t, x, noise=noise), ddpm.step(output, t, x, noise=noise))


def test_deterministic_step_keeps_the_noise() -> None:
    """From x_t made of known x0 and epsilon, the step gives x_prev of the same two, at the step really kept."""
    scheduler = RespacedDDIMScheduler(100)
    scheduler.set_timesteps(10)
    x0, epsilon = torch.randn(1, 1, 4, 4).double(), torch.randn(1, 1, 4, 4).double()
    x = scheduler.add_noise(x0, epsilon, torch.tensor([99]))
    previous, estimate = scheduler.step(epsilon, 99, x)
    torch.testing.assert_close(estimate, x0, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(previous, scheduler.add_noise(x0, epsilon, torch.tensor([88])), rtol=1e-9, atol=1e-9)
    assert not scheduler.is_stochastic
    assert RespacedDDIMScheduler(100, eta=0.5).is_stochastic


def test_clamped_estimate_also_gives_the_noise() -> None:
    scheduler = RespacedDDIMScheduler(100, prediction_type="sample", clip_sample=True)
    x, output = torch.full((1, 1, 1), 0.5).double(), torch.full((1, 1, 1), 4.0).double()
    now, before = scheduler.alpha_bars(50)
    epsilon = (0.5 - now**0.5 * 1.0) / (1 - now) ** 0.5
    expected = before**0.5 * 1.0 + (1 - before) ** 0.5 * epsilon
    assert scheduler.step(output, 50, x)[0].item() == pytest.approx(expected)


@pytest.mark.parametrize("eta", [-0.1, 1.1])
def test_eta_out_of_range(eta: float) -> None:
    with pytest.raises(ValueError, match="eta must lie"):
        RespacedDDIMScheduler(100, eta=eta)
