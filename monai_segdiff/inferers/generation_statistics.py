# SPDX-License-Identifier: Apache-2.0
"""From generated masks to probability and uncertainty: the one place where this is defined."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch

__all__ = ["GenerationStatistics", "KeptGenerations", "RunningStatistics", "mask_to_probability"]


def mask_to_probability(masks: torch.Tensor) -> torch.Tensor:
    """Map generated masks from the diffusion's range [-1, 1] to probabilities, ``clamp((x + 1) / 2, 0, 1)``."""
    return ((masks + 1) / 2).clamp(0, 1)


class GenerationStatistics(NamedTuple):
    """Summary over several generations of one image; each entry is float32 ``[B, C, *spatial]``.

    Attributes:
        mean: mean of the generations' probabilities: the prediction of SegDiff, in [0, 1].
        variance: population variance of the probabilities, in [0, 0.25].
        entropy: entropy of the mean as a Bernoulli probability, in nats, in [0, ln 2].
    """

    mean: torch.Tensor
    variance: torch.Tensor
    entropy: torch.Tensor

    @classmethod
    def from_moments(cls, mean: torch.Tensor, variance: torch.Tensor) -> GenerationStatistics:
        """Summarise by mean and variance, each generation clamped to [0, 1] before, as released."""
        return cls(mean, variance, torch.special.entr(mean) + torch.special.entr(1 - mean))


class GenerationTally(Protocol):
    """Takes generations in, one after another."""

    count: int

    def add(self, probability: torch.Tensor) -> None:
        """Take one more generation in, as probabilities of any shape."""

    def maps(self) -> list[torch.Tensor]:
        """Return what is to be known of the generations so far, each shaped like one of them."""


class RunningStatistics:
    """Mean and variance of the generations so far (Welford's update), in the memory of two masks.

    Generations are added one by one in their order, so that the bits of the result do not depend on how many of them
    were computed together. The mean is a sum divided by the count, so that ties of saturated generations are exactly
    0.5, which is background.

    Attributes:
        count: generations so far.
        total: their sum.
    """

    def __init__(self) -> None:
        self.count = 0
        self.total: torch.Tensor
        self._squares: torch.Tensor

    def add(self, probability: torch.Tensor) -> None:
        """Take one more generation in, as probabilities of any shape."""
        if self.count == 0:
            self.count, self.total, self._squares = 1, probability, torch.zeros_like(probability)
            return
        before = probability - self.mean
        self.count, self.total = self.count + 1, self.total + probability
        self._squares = self._squares + before * (probability - self.mean)

    @property
    def mean(self) -> torch.Tensor:
        """Mean of the generations so far."""
        return self.total / self.count

    @property
    def variance(self) -> torch.Tensor:
        """Population variance of the generations so far."""
        return self._squares / self.count

    def maps(self) -> list[torch.Tensor]:
        """Return mean and variance."""
        return [self.mean, self.variance]


class KeptGenerations:
    """Every generation, as it came.

    Attributes:
        count: generations so far.
    """

    def __init__(self) -> None:
        self.count = 0
        self._kept: list[torch.Tensor] = []

    def add(self, probability: torch.Tensor) -> None:
        """Take one more generation in."""
        self.count += 1
        self._kept.append(probability)

    def maps(self) -> list[torch.Tensor]:
        """Return the generations."""
        return self._kept
