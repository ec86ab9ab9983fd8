# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from monai.networks.schedulers import DDPMScheduler

from monai_segdiff import RespacedDDPMScheduler, SegDiffUNet, convert_released_state_dict

FIXTURE = Path(__file__).parents[3].parent / "shared" / "fixtures" / "segdiff_reference.pt"


def test_all_steps_equal_monai() -> None:
    ours = RespacedDDPMScheduler(100)
    arguments = {"schedule": "linear_beta", "beta_start": 0.001, "beta_end": 0.2, "clip_sample": False}
    monai = DDPMScheduler(100, variance_type="fixed_large", **arguments)  # type: ignore[arg-type]
    x, output = torch.randn(1, 1, 4, 4), torch.randn(1, 1, 4, 4)
    for t in (99, 50, 10):
        generators = [torch.Generator().manual_seed(t) for _ in range(2)]
        mine = ours.step(output, t, x, generator=generators[0])
        theirs = monai.step(output, t, x, generator=generators[1])
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kept", [100, 10])
def test_mean_and_variance_are_those_of_the_posterior(kept: int) -> None:
    """Condition the joint normal of (x_prev, x_t) given x0 on x_t, without the closed form that the sampler uses."""
    scheduler = RespacedDDPMScheduler(100, prediction_type="sample", variance_type="fixed_small")
    scheduler.set_timesteps(kept)
    steps = scheduler.timesteps.tolist()
    x0, x = torch.tensor([0.3]).double(), torch.tensor([-0.8]).double()
    for t, previous in itertools.pairwise(steps):
        now, before = scheduler.alphas_cumprod[t], scheduler.alphas_cumprod[previous]
        ratio = now / before
        covariance = ratio.sqrt() * (1 - before)
        mean = before.sqrt() * x0 + covariance / (1 - now) * (x - now.sqrt() * x0)
        variance = (1 - before) - covariance**2 / (1 - now)
        at_mean, _ = scheduler.step(x0, t, x, noise=torch.zeros(1))
        one_off, _ = scheduler.step(x0, t, x, noise=torch.ones(1))
        torch.testing.assert_close(at_mean, mean, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close((one_off - at_mean) ** 2, variance.reshape(1), rtol=1e-6, atol=1e-12)


def test_variances_differ_fourfold_at_the_second_step() -> None:
    spread = {}
    for variance_type in ("fixed_large", "fixed_small"):
        scheduler = RespacedDDPMScheduler(100, variance_type=variance_type)
        zero, one = torch.zeros(1).double(), torch.ones(1).double()
        spread[variance_type] = (scheduler.step(zero, 1, zero, noise=one)[0]) ** 2
        # No noise at the last step.
        assert scheduler.step(zero, 0, zero, noise=one)[0].item() == 0
    assert (spread["fixed_large"] / spread["fixed_small"]).item() == pytest.approx(4.0, rel=0.01)


@pytest.mark.parametrize("kept", [100, 25, 10, 3, 1])
def test_an_oracle_recovers_the_mask(kept: int) -> None:
    scheduler = RespacedDDPMScheduler(100)
    scheduler.set_timesteps(kept)
    generator = torch.Generator().manual_seed(0)
    mask = torch.where(torch.rand(1, 1, 8, 8, generator=generator) > 0.5, 1.0, -1.0).double()
    x = torch.randn(1, 1, 8, 8, generator=generator).double()
    for t in scheduler.timesteps.tolist():
        alpha_bar = scheduler.alphas_cumprod[t]
        epsilon = (x - alpha_bar.sqrt() * mask) / (1 - alpha_bar).sqrt()
        x, _ = scheduler.step(epsilon, t, x, generator=generator)
    torch.testing.assert_close(x, mask, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("case", ["noclip", "clip"])
@torch.no_grad()
def test_trajectory_of_the_released_code(case: str) -> None:
    if not FIXTURE.is_file():
        pytest.skip("the reference tensors of the released code are not present")
    reference = torch.load(FIXTURE, weights_only=True)
    trajectory = reference["respaced10"][case]
    levels = {"channels": (32, 64, 96, 128), "attention_levels": (False, False, True, True)}
    network = SegDiffUNet(2, 3, 1, num_res_blocks=2, num_rrdb_blocks=2, **levels).eval()  # type: ignore[arg-type]
    network.load_state_dict(convert_released_state_dict(reference["state_dict"], num_res_blocks=2))
    scheduler = RespacedDDPMScheduler(100, clip_sample=case == "clip")
    scheduler.set_timesteps(10)
    bars = torch.tensor([scheduler.alpha_bars(t) for t in reversed(scheduler.timesteps.tolist())], dtype=torch.float64)
    torch.testing.assert_close(1 - bars[:, 0] / bars[:, 1], trajectory["betas"], rtol=1e-9, atol=1e-12)
    features, x = network.encode_image(reference["image"]), trajectory["x_T"]
    for k, t in enumerate(scheduler.timesteps.tolist()):
        output = network(x, torch.tensor([t]), image_features=features)
        x, _ = scheduler.step(output, t, x, noise=trajectory["noises"][k])
        expected = trajectory["samples"][k]
        assert (x - expected).abs().max() < 1e-4 * expected.abs().max()
