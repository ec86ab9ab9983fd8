# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.bundle import Bundle
from benchmarks.procedures import procedures
from monai_segdiff import RespacedDDIMScheduler, RespacedDDPMScheduler

STEPS, GENERATIONS = 21, 3


def test_from_released_to_default(bundle: Bundle) -> None:
    rows = procedures(bundle, extras=True)
    assert [row.key for row in rows] == [
        *("released", "cached", "channels_last", "packed", "few_steps", "default_steps", "default_generations"),
        *("default", "compiled", "joint"),
    ]
    inferers = {row.key: bundle.inferer(**row.arguments) for row in rows}
    first, default = inferers["released"], bundle.inferer()
    assert isinstance(first.scheduler, RespacedDDPMScheduler)
    assert first.scheduler.variance_type == "fixed_large"
    assert first.scheduler.timesteps.tolist() == list(range(99, -1, -1))
    assert not first.scheduler.clip_sample
    assert (first.num_generations, first.max_batch, first.cache_image_features) == (9, 1, False)
    # The published windows, which the tiny bundle makes smaller.
    assert (first.windows["roi_size"], first.windows["overlap"], first.windows["mode"]) == (64, 0.0, "constant")
    few = inferers["few_steps"].scheduler
    assert isinstance(few, RespacedDDIMScheduler)
    assert few.num_inference_steps == 10
    last = inferers["default"]
    assert last.scheduler.timesteps.tolist() == default.scheduler.timesteps.tolist()
    same = ("num_generations", "max_batch", "cache_image_features", "windows", "window_mode", "seed", "amp")
    assert all(getattr(last, name) == getattr(default, name) for name in same)
    assert inferers["compiled"].compiled is not None
    assert inferers["joint"].window_mode == "joint"


def test_windows() -> None:
    bundle = Bundle({"device": "cpu"})
    rows = procedures(bundle)
    assert [row.window(bundle) for row in rows] == [256] * 7 + [bundle.value("window_size")]


def test_each_row_changes_one_thing(bundle: Bundle) -> None:
    rows = procedures(bundle)
    for one, other in zip(rows[:-1], rows[1:], strict=True):
        names = one.arguments.keys() | other.arguments.keys()
        changed = {name for name in names if one.arguments.get(name) != other.arguments.get(name)}
        if one.channels_last != other.channels_last:
            changed.add("memory")
        expected = {"few_steps": {"scheduler", "num_inference_steps"}, "default": {"roi_size", "overlap", "mode"}}
        assert changed == expected.get(other.key, changed)
        assert len(changed) == len(expected.get(other.key, [1]))


def test_bfloat16_where_the_bundle_uses_it(bundle: Bundle) -> None:
    rows = procedures(bundle.with_overrides({"amp": True}))
    assert [row.key for row in rows if row.arguments["amp"]][0] == "bfloat16"
    assert [row.key for row in rows if not row.arguments["amp"]] == ["released", "cached", "channels_last"]


@pytest.mark.parametrize("prediction_type", ["sample", "epsilon"])
def test_released_row_against_a_second_implementation(
    bundle: Bundle, weights: Path, prediction_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.procedures.GENERATIONS", GENERATIONS)
    changes = {"num_train_timesteps": STEPS, "prediction_type": prediction_type, "window_size": 16}
    bundle = bundle.with_overrides(changes)
    network = bundle.network(weights, channels_last=False)
    image = torch.randn(1, 3, 32, 16, generator=torch.Generator().manual_seed(0))
    released = procedures(bundle)[0]
    found = bundle.inferer(**released.arguments)(image, network)[0, 0].numpy()
    expected = np.concatenate([released_window(bundle, network, image, top) for top in (0, 16)])
    np.testing.assert_allclose(found, expected, atol=2e-5)
    assert 0.05 < (found > 0.5).mean() < 0.95


def released_window(bundle: Bundle, network: torch.nn.Module, image: torch.Tensor, top: int) -> np.ndarray:
    """The released code's loop in numpy: every pass encodes the image, every generation runs alone, betas are kept."""
    window = image[:, :, top : top + 16]
    beta = np.linspace(1e-4 * 1000 / STEPS, 0.02 * 1000 / STEPS, STEPS)
    bar = np.cumprod(1 - beta)
    total = np.zeros((16, 16))
    for generation in range(GENERATIONS):
        entropy = np.random.SeedSequence([bundle.value("seed"), generation, top, 0]).generate_state(1, np.uint64)[0]
        stream = torch.Generator().manual_seed(int(entropy) >> 1)
        x = torch.randn(1, 16, 16, generator=stream).double().numpy()[0]
        for t in reversed(range(STEPS)):
            with torch.no_grad():
                noisy = torch.tensor(x, dtype=torch.float32)[None, None]
                output = network(noisy, torch.tensor([t]), context=window)[0, 0].double().numpy()
            noise = torch.randn(1, 16, 16, generator=stream).double().numpy()[0]
            x0 = output
            if bundle.value("prediction_type") == "epsilon":
                x0 = (x - np.sqrt(1 - bar[t]) * output) / np.sqrt(bar[t])
            before = bar[t - 1] if t else 1.0
            mean = (np.sqrt(before) * beta[t] * x0 + np.sqrt(1 - beta[t]) * (1 - before) * x) / (1 - bar[t])
            x = mean + np.sqrt(beta[t]) * noise * (t > 0)
        total += np.clip((x + 1) / 2, 0, 1)
    return total / GENERATIONS
