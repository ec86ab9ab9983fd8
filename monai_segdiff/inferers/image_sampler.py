# SPDX-License-Identifier: Apache-2.0
"""The generations of one image: over its windows one after another, or jointly."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeVar, cast

import torch

from .generation_statistics import GenerationTally, RunningStatistics
from .generation_stopping import GenerationStopping
from .packed_network import PackedNetwork
from .window_plan import WindowPlan

__all__ = ["GenerationSampler", "ImageSampler"]

Item = TypeVar("Item")


class GenerationSampler(Protocol):
    """Draws generations: :class:`MaskSampler` by Gaussian diffusion, :class:`LabelRefiner` by a discrete one."""

    device: torch.device

    def __call__(self, predict: Any, keys: Sequence[Sequence[int]], shape: Sequence[int]) -> torch.Tensor:
        """Draw one generation for each key, ``[len(keys), *shape]``, in a range of its own.

        ``predict`` is what :meth:`PackedNetwork.rows` returns.
        """

    def probability(self, masks: torch.Tensor) -> torch.Tensor:
        """Map what was drawn to probabilities."""

    def blank(self, shape: Sequence[int]) -> torch.Tensor:
        """Return an input of the network of the size that it has for masks ``[R, C, *spatial]``."""


class ImageSampler:
    """Sample the generations of one image.

    Args:
        sampler: draws masks.
        packed: the network over the image's windows.
        plan: where the windows lie.
        mask_channels: channels of a mask.
        num_generations: N.
    """

    def __init__(
        self,
        sampler: GenerationSampler,
        packed: PackedNetwork,
        plan: WindowPlan,
        mask_channels: int,
        num_generations: int,
    ) -> None:
        self.sampler = sampler
        self.packed = packed
        self.plan = plan
        self.mask_channels = mask_channels
        self.num_generations = num_generations

    def independent(
        self, start: Callable[[], GenerationTally], stopping: GenerationStopping | None = None
    ) -> list[torch.Tensor]:
        """Sample each window for itself and blend what the tallies of the windows say.

        Args:
            start: makes a tally, which takes the generations of a window in.
            stopping: ends the generations of windows early. All windows are then held until the last has stopped.

        Returns:
            Each map of the tallies, blended, ``[1, C, *padded_size]`` with the channels of what was sampled.
        """
        tallies = {window: start() for window in range(len(self.plan.windows))}
        blended = _BlendedMaps(self.plan)
        active, done = list(tallies), 0
        for count in stopping.checks(self.num_generations) if stopping else [self.num_generations]:
            rows = [(window, generation) for window in active for generation in range(done, count)]
            for batch in _chunks(rows, self.packed.max_batch):
                self._sample_rows(batch, tallies)
                if not stopping:
                    self._release(blended, tallies, [window for window in tallies if tallies[window].count == count])
            done = count
            if stopping:
                active = stopping.undecided(
                    active, cast(dict[int, RunningStatistics], tallies), self.num_generations, self.plan
                )
                for window in set(tallies).difference(active):
                    self.packed.forget(window)
                if not active:
                    break
        self._release(blended, tallies, list(tallies))
        return blended.result()

    def joint(self, start: Callable[[], GenerationTally]) -> list[torch.Tensor]:
        """Sample masks of the whole image; the network's predictions are blended over the windows at every step.

        Args:
            start: makes the tally of the image.

        Returns:
            Each map of the tally, ``[1, C, *padded_size]``.
        """
        tally, weight = start(), self.plan.total_weight(self.sampler.device)
        origin = (0,) * len(self.plan.padded_size)

        def predict(x: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
            output = torch.zeros_like(x)
            rows = [(mask, window) for mask in range(len(x)) for window in range(len(self.plan.windows))]
            for batch in _chunks(rows, self.packed.max_batch):
                noisy = torch.cat([self.plan.cut(x[mask, None], window) for mask, window in batch])
                values = self.packed(noisy, timestep, [window for _, window in batch])
                for value, (mask, window) in zip(values, batch, strict=True):
                    self.plan.add(output[mask, None], window, value[None])
            return output / weight

        for batch in _chunks(list(range(self.num_generations)), self.packed.max_batch):
            keys = [(generation, *origin) for generation in batch]
            for mask in self.sampler(predict, keys, (self.mask_channels, *self.plan.padded_size)):
                tally.add(self.sampler.probability(mask[None]))
        return tally.maps()

    def _sample_rows(self, rows: list[tuple[int, int]], tallies: dict[int, GenerationTally]) -> None:
        """Sample one mask for each (window, generation), and give it to the window's tally."""
        windows = [window for window, _ in rows]
        keys = [(generation, *self.plan.origin(window)) for window, generation in rows]
        shape = (self.mask_channels, *self.plan.roi_size)
        masks = self.sampler(self.packed.rows(windows), keys, shape)
        for window, mask in zip(windows, masks, strict=True):
            tallies[window].add(self.sampler.probability(mask[None]))

    def _release(self, blended: _BlendedMaps, tallies: dict[int, GenerationTally], windows: list[int]) -> None:
        """Blend windows into the image, always in their order, and drop what was held for them."""
        for window in windows:
            blended.add(window, tallies.pop(window).maps())
            self.packed.forget(window)


class _BlendedMaps:
    """Maps of windows on their way to maps of the image."""

    def __init__(self, plan: WindowPlan) -> None:
        self.plan = plan
        self.totals: list[torch.Tensor] = []

    def add(self, window: int, maps: list[torch.Tensor]) -> None:
        if not self.totals:
            self.totals = [values.new_zeros(*values.shape[:2], *self.plan.padded_size) for values in maps]
        for total, values in zip(self.totals, maps, strict=True):
            self.plan.add(total, window, values)

    def result(self) -> list[torch.Tensor]:
        weight = self.plan.total_weight(self.totals[0].device)
        return [total / weight for total in self.totals]


def _chunks(items: list[Item], size: int) -> Iterator[list[Item]]:
    return (items[start : start + size] for start in range(0, len(items), size))
