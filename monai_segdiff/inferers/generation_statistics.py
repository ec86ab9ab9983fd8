# SPDX-License-Identifier: Apache-2.0
"""From generated masks to probability and uncertainty: the one place where this is defined."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch

__all__ = [
    "CategoricalUncertaintyStatistics",
    "GenerationStatistics",
    "KeptGenerations",
    "RunningStatistics",
    "UncertaintyStatistics",
    "mask_to_probability",
]


def mask_to_probability(masks: torch.Tensor) -> torch.Tensor:
    """Map generated masks from the diffusion's range [-1, 1] to probabilities, ``clamp((x + 1) / 2, 0, 1)``."""
    return ((masks + 1) / 2).clamp(0, 1)


def binary_entropy(probability: torch.Tensor) -> torch.Tensor:
    """Return ``-p ln p - (1 - p) ln(1 - p)``, in nats, for each entry."""
    return torch.special.entr(probability) + torch.special.entr(1 - probability)


def categorical_entropy(probability: torch.Tensor) -> torch.Tensor:
    """Return ``-sum_k p_k ln p_k``, in nats, over the channels: ``[B, K, *spatial]`` to ``[B, 1, *spatial]``."""
    return torch.special.entr(probability).sum(dim=1, keepdim=True)


class GenerationStatistics(NamedTuple):
    """Summary over several generations of one image; each entry is float32 ``[B, C, *spatial]``.

    With the probabilities ``p_1 .. p_N`` of the generations, each clamped to [0, 1] as released, their mean ``m`` and
    ``H(p) = -p ln p - (1 - p) ln(1 - p)``, as below. Of K classes that exclude each other, ``p`` are K probabilities
    that sum to 1 and ``H(p) = -sum_k p_k ln p_k``: mean and variance have K channels, entropy and mutual information
    have one and lie in [0, ln K].

    Attributes:
        mean: ``m``, the prediction of SegDiff, in [0, 1].
        variance: population variance of the probabilities, in [0, 0.25].
        entropy: predictive entropy ``H(m)``, in nats, in [0, ln 2]: all that is uncertain about the pixel.
        mutual_information: ``H(m) - (H(p_1) + .. + H(p_N)) / N``, in nats, in [0, ln 2]: the part of it that is
            disagreement between generations. Like the variance it is blended over the windows, and is 0 where they
            agree, as one generation does with itself.
    """

    mean: torch.Tensor
    variance: torch.Tensor
    entropy: torch.Tensor
    mutual_information: torch.Tensor

    @property
    def standard_deviation(self) -> torch.Tensor:
        """Population standard deviation of the probabilities, in [0, 0.5]."""
        return self.variance.sqrt()

    @classmethod
    def from_maps(
        cls, mean: torch.Tensor, variance: torch.Tensor, mutual_information: torch.Tensor
    ) -> GenerationStatistics:
        """Summarise by the maps of a tally.

        Args:
            mean: of the generations.
            variance: of the generations.
            mutual_information: of the shape of the mean, as of :class:`UncertaintyStatistics`, or with one channel, as
                of :class:`CategoricalUncertaintyStatistics`. The entropy is of the same kind.
        """
        entropy = binary_entropy if mutual_information.shape == mean.shape else categorical_entropy
        return cls(mean, variance, entropy(mean), mutual_information)


class GenerationTally(Protocol):
    """Takes generations in, one after another."""

    count: int

    def add(self, probability: torch.Tensor) -> None:
        """Take one more generation in, as probabilities of any shape."""

    def maps(self) -> list[torch.Tensor]:
        """Return what is to be known of the generations so far, each of the size of one of them."""


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


class UncertaintyStatistics(RunningStatistics):
    """Mean, variance and mutual information of the generations so far, in the memory of three masks.

    Each channel is a mask of its own.
    """

    entropy = staticmethod(binary_entropy)

    def __init__(self) -> None:
        super().__init__()
        self._entropies: torch.Tensor

    def add(self, probability: torch.Tensor) -> None:
        """Take one more generation in, as probabilities of any shape."""
        super().add(probability)
        entropy = self.entropy(probability)
        self._entropies = entropy if self.count == 1 else self._entropies + entropy

    def maps(self) -> list[torch.Tensor]:
        """Return mean, variance and mutual information."""
        # Never negative but for rounding: the entropy is concave.
        return [*super().maps(), (self.entropy(self.mean) - self._entropies / self.count).clamp(min=0)]


class CategoricalUncertaintyStatistics(UncertaintyStatistics):
    """Mean, variance and mutual information of K classes that exclude each other, one in each channel.

    Generations are ``[B, K, *spatial]``, background included, and sum to 1; so are mean and variance shaped, and the
    mutual information is ``[B, 1, *spatial]``.
    """

    entropy = staticmethod(categorical_entropy)


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
