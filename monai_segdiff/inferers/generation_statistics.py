# SPDX-License-Identifier: Apache-2.0
"""From generated masks to probability and uncertainty: the one place where this is defined."""

from __future__ import annotations

from typing import NamedTuple

import torch

__all__ = ["GenerationStatistics", "mask_to_probability"]


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
    def from_generations(cls, probabilities: torch.Tensor) -> GenerationStatistics:
        """Summarise generations.

        Args:
            probabilities: ``[N, B, C, *spatial]``, each generation clamped to [0, 1] before this mean, as released.
        """
        mean = probabilities.mean(0)
        entropy = torch.special.entr(mean) + torch.special.entr(1 - mean)
        return cls(mean, probabilities.var(0, correction=0), entropy)
