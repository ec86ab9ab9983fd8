# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks.bundle import Bundle
from benchmarks.passes import Passes, PassMeter, planned_passes

# Windows of 64 pixels over 96 x 160: 2 x 3 without overlap, 2 x 3 with a quarter, which steps by 48.
WINDOWS = {0.0: 6, 0.25: 6, 0.5: 8}


@pytest.mark.parametrize("overlap", WINDOWS)
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("generations", [1, 2])
@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("window_mode", ["independent", "joint"])
def test_planned_passes_are_windows_times_generations_times_steps(
    bundle: Bundle, overlap: float, steps: int, generations: int, cached: bool, window_mode: str
) -> None:
    inferer = bundle.inferer(
        overlap=overlap,
        num_inference_steps=steps,
        num_generations=generations,
        cache_image_features=cached,
        window_mode=window_mode,
    )
    every = WINDOWS[overlap] * generations * steps
    found = planned_passes(inferer, bundle.network(), (96, 160))
    assert found == Passes(encoder=WINDOWS[overlap] if cached else every, denoiser=every)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"cache_image_features": False, "num_inference_steps": 2},
        {"num_generations": 3, "max_batch": 2},
        {"num_generations": 3, "max_batch": 4, "window_mode": "joint"},
    ],
)
@pytest.mark.parametrize("timed", [False, True])
def test_metered_passes_are_the_planned_ones(bundle: Bundle, arguments: dict[str, Any], timed: bool) -> None:
    network, inferer = bundle.network(), bundle.inferer(**arguments)
    with PassMeter(network, timed) as meter:
        inferer(torch.zeros(1, 3, 96, 70), network)
    assert meter.passes == planned_passes(inferer, network, (96, 70))
    assert all((seconds > 0) == timed for seconds in meter.seconds)
    # Nothing is counted outside.
    inferer(torch.zeros(1, 3, 64, 64), network)
    assert meter.passes == planned_passes(inferer, network, (96, 70))


def test_rows_that_fill_up_a_batch_count(bundle: Bundle) -> None:
    inferer = bundle.inferer(num_generations=3, max_batch=8)
    assert planned_passes(inferer, bundle.network(), (64, 64)) == Passes(encoder=1, denoiser=8)
