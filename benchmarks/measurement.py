# SPDX-License-Identifier: Apache-2.0
"""Time, memory and passes of one way to segment images."""

from __future__ import annotations

import dataclasses
import multiprocessing
import statistics
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from monai_segdiff import SegDiffInferer, SegDiffUNet

from .bundle import Bundle
from .passes import Passes, PassMeter, planned_passes, synchronize
from .peak_memory import PeakMemory

__all__ = ["Job", "Measurement", "measure", "measure_isolated"]

# What takes longer is measured once, without a full call before.
SHORT_SECONDS = 30.0
REPEATS = 3


@dataclass(frozen=True)
class Job:
    """What to measure; can be sent to another process.

    Attributes:
        images: normalised images, float32 ``[3, H, W]``.
        overrides: of the bundle.
        weights: file of weights; None: random weights.
        arguments: of the inferer, where they differ from the bundle's.
        channels_last: lay out the network's weights so.
        full_size: size of an image for which to count the passes; default: that of the first image.
        passes_limit: run at most about so many passes of the denoiser, and scale their time. The masks are then
            of no use.
    """

    images: tuple[np.ndarray, ...]
    overrides: Mapping[str, Any]
    weights: str | None = None
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    channels_last: bool = True
    full_size: tuple[int, ...] | None = None
    passes_limit: int | None = None


@dataclass(frozen=True)
class Measurement:
    """What was found.

    Attributes:
        seconds: for an image, mean over the images of the median of the repetitions.
        scaled: whether ``seconds`` was computed from the time of a few passes.
        passes: for an image, mean over images; counted while it ran, or planned if ``scaled``.
        full_passes: for an image of ``full_size``.
        full_seconds: ``seconds`` scaled to it by the number of passes.
        peak_memory: most bytes held beyond those after loading.
        loaded_memory: bytes held after loading.
        probabilities: one map for each image, float32 ``[H, W]``; none if ``scaled``.
    """

    seconds: float
    scaled: bool
    passes: Passes
    full_passes: Passes
    full_seconds: float
    peak_memory: int
    loaded_memory: int
    probabilities: tuple[np.ndarray, ...]


def measure_isolated(job: Job) -> Measurement:
    """Measure in a fresh process, so that neither earlier memory nor earlier kernels are taken for the job's."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(measure, job).result()
        except BrokenProcessPool as error:
            raise RuntimeError("The measuring process was ended from outside; was it out of memory?") from error


def measure(job: Job) -> Measurement:
    """Measure in this process."""
    loaded = _Loaded(job)
    with PeakMemory(loaded.device) as memory:
        timing = _time_few_passes(loaded) if loaded.limited else _time_everything(loaded)
    full = loaded.planned(job.full_size or job.images[0].shape[1:])
    return Measurement(
        seconds=timing.seconds,
        scaled=loaded.limited,
        passes=timing.passes,
        full_passes=full,
        full_seconds=timing.full_seconds(full),
        peak_memory=memory.peak,
        loaded_memory=memory.before,
        probabilities=timing.probabilities,
    )


class _Loaded:
    """A job with its network and images on the device."""

    def __init__(self, job: Job) -> None:
        self.arguments = dict(job.arguments)
        self.bundle = Bundle(job.overrides)
        self.device = self.bundle.device
        self.network: SegDiffUNet = self.bundle.network(job.weights, channels_last=job.channels_last)
        self.images = [torch.from_numpy(image)[None].to(self.device) for image in job.images]
        self.compiles = bool(self.arguments.get("compile"))
        self.limit = job.passes_limit or 0
        inferer = self.inferer()
        self.generations, self.steps = inferer.num_generations, inferer.scheduler.num_inference_steps or 1
        self.limited = bool(self.limit) and self.generations * self.steps > self.limit

    def inferer(self, **changes: Any) -> SegDiffInferer:
        return self.bundle.inferer(**{**self.arguments, **changes})

    def planned(self, size: tuple[int, ...]) -> Passes:
        return planned_passes(self.inferer(**({"compile": False} if self.compiles else {})), self.network, size)

    def mean_planned(self) -> Passes:
        return _mean([self.planned(tuple(image.shape[2:])) for image in self.images])


class _Timing(NamedTuple):
    seconds: float
    passes: Passes
    probabilities: tuple[np.ndarray, ...]
    seconds_of_row: tuple[float, float] | None = None

    def full_seconds(self, full: Passes) -> float:
        if self.seconds_of_row is None:
            return self.seconds * full.denoiser / self.passes.denoiser
        return sum(seconds * rows for seconds, rows in zip(self.seconds_of_row, full, strict=True))


def _time_everything(loaded: _Loaded) -> _Timing:
    """Segment all images; several times, after a first time that does not count, if that was short."""
    inferer = loaded.inferer()

    def segment(image: torch.Tensor) -> tuple[float, torch.Tensor]:
        synchronize(loaded.device)
        start = time.perf_counter()
        probability = inferer(image, loaded.network)
        synchronize(loaded.device)
        return time.perf_counter() - start, probability

    with PassMeter(loaded.network) if not loaded.compiles else nullcontext() as meter:
        first = [segment(image) for image in loaded.images]
    seconds = [[elapsed] for elapsed, _ in first]
    if sum(elapsed for elapsed, _ in first) < SHORT_SECONDS or loaded.compiles:
        seconds = [[segment(image)[0] for _ in range(REPEATS)] for image in loaded.images]
    passes = _mean([meter.passes], len(loaded.images)) if meter else loaded.mean_planned()
    probabilities = tuple(probability[0, 0].cpu().numpy() for _, probability in first)
    return _Timing(statistics.mean(statistics.median(times) for times in seconds), passes, probabilities)


def _time_few_passes(loaded: _Loaded) -> _Timing:
    """Time some passes over the first image, and compute from them the time of all."""
    generations = min(loaded.generations, loaded.limit)
    loaded.inferer(num_inference_steps=1, num_generations=1)(loaded.images[0], loaded.network)
    inferer = loaded.inferer(num_inference_steps=max(loaded.limit // generations, 1), num_generations=generations)
    with PassMeter(loaded.network, timed=True) as meter:
        inferer(loaded.images[0], loaded.network)
    per_row = (meter.seconds[0] / meter.rows[0], meter.seconds[1] / meter.rows[1])
    passes = loaded.mean_planned()
    timing = _Timing(0.0, passes, (), per_row)
    return timing._replace(seconds=timing.full_seconds(passes))


def _mean(passes: Sequence[Passes], count: int | None = None) -> Passes:
    """Return the mean of an image; a whole number where all images have the same number of windows."""
    totals = (sum(column) / (count or len(passes)) for column in zip(*passes, strict=True))
    return Passes(*(int(total) if total == int(total) else total for total in totals))
