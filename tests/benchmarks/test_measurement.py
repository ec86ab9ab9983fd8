# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import measurement
from benchmarks.bundle import Bundle
from benchmarks.measurement import Job, measure, measure_isolated
from benchmarks.passes import Passes, planned_passes


@pytest.fixture(scope="module")
def images() -> tuple[np.ndarray, ...]:
    return tuple(np.random.default_rng(i).standard_normal((3, 64, 64 + 32 * i), dtype=np.float32) for i in range(2))


@pytest.mark.parametrize("short", [0.0, 30.0])
@pytest.mark.parametrize("arguments", [{}, {"num_generations": 2, "num_inference_steps": 3, "max_batch": 1}])
def test_masks_and_passes_are_those_of_the_inferer(
    images: tuple[np.ndarray, ...],
    bundle: Bundle,
    weights: Path,
    arguments: dict[str, Any],
    short: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(measurement, "SHORT_SECONDS", short)
    found = measure(Job(images, bundle.overrides, str(weights), arguments, full_size=(128, 128)))
    inferer, network = bundle.inferer(**arguments), bundle.network(weights)
    for image, probability in zip(images, found.probabilities, strict=True):
        expected = inferer(torch.from_numpy(image)[None], network)[0, 0].numpy()
        assert np.array_equal(probability, expected)
    # One window and two.
    every = inferer.num_generations * (inferer.scheduler.num_inference_steps or 0)
    assert found.passes == Passes(1.5, 1.5 * every)
    assert found.full_passes == planned_passes(inferer, network, (128, 128))
    assert found.full_seconds == pytest.approx(found.seconds * found.full_passes.denoiser / found.passes.denoiser)
    assert not found.scaled
    assert found.loaded_memory > 0


def test_few_passes_are_scaled(images: tuple[np.ndarray, ...], bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[tuple[int, int]] = []
    call = measurement.SegDiffInferer.__call__

    def spy(self: Any, image: torch.Tensor, network: Any) -> torch.Tensor:
        if isinstance(network, measurement.SegDiffUNet):
            ran.append((self.scheduler.num_inference_steps, self.num_generations))
        return call(self, image, network)

    monkeypatch.setattr(measurement.SegDiffInferer, "__call__", spy)
    arguments = {"num_generations": 9, "num_inference_steps": 50, "cache_image_features": False}
    found = measure(Job(images[:1], bundle.overrides, arguments=arguments, full_size=(128, 128), passes_limit=18))
    assert ran == [(1, 1), (2, 9)]
    assert found.scaled
    assert found.probabilities == ()
    assert found.passes == Passes(450, 450)
    assert found.full_seconds == pytest.approx(found.seconds * found.full_passes.denoiser / 450)
    # What is short enough anyway is not scaled.
    assert not measure(Job(images[:1], bundle.overrides, passes_limit=1)).scaled


def test_a_process_of_its_own_finds_the_same(images: tuple[np.ndarray, ...], bundle: Bundle, weights: Path) -> None:
    job = Job(images[:1], bundle.overrides, str(weights), {"num_generations": 2}, channels_last=False)
    here, there = measure(job), measure_isolated(job)
    np.testing.assert_allclose(there.probabilities[0], here.probabilities[0], atol=1e-6)
    assert there.passes == here.passes
    assert there.peak_memory > 0


def test_a_process_that_is_killed(monkeypatch: pytest.MonkeyPatch, bundle: Bundle) -> None:
    class Broken:
        def __init__(self, *_: object, **__: object) -> None: ...
        def __enter__(self) -> Broken:
            return self

        def __exit__(self, *_: object) -> None: ...
        def submit(self, *_: object) -> Broken:
            return self

        def result(self) -> None:
            raise measurement.BrokenProcessPool

    monkeypatch.setattr(measurement, "ProcessPoolExecutor", Broken)
    with pytest.raises(RuntimeError, match="out of memory"):
        measure_isolated(Job((np.zeros((3, 64, 64), dtype=np.float32),), bundle.overrides))
