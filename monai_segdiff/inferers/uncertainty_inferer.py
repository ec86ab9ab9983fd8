# SPDX-License-Identifier: Apache-2.0
"""Probability and uncertainty as one result, for engines that know of one."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from monai.inferers import Inferer
from torch import nn

from .generation_statistics import GenerationStatistics

__all__ = ["UncertaintyInferer"]


class StatisticsInferer(Protocol):
    """Samples several generations, as :class:`~monai_segdiff.SegDiffInferer` does."""

    num_generations: int

    def statistics(self, inputs: torch.Tensor, network: nn.Module) -> GenerationStatistics:
        """Return mean and uncertainty over the generations."""


class UncertaintyInferer(Inferer):
    """Give mean, standard deviation and mutual information over the generations, one after another.

    MONAI's engines take one tensor from an inferer, and transforms resize and invert it as one. Here it has three times
    the channels, or 2 K + 1 if its K classes exclude each other; :class:`~monai_segdiff.SplitStatisticsd` takes it
    apart again, and adds the entropy of the mean.

    Args:
        inferer: samples the generations, at least two.

    Raises:
        ValueError: it samples one generation, which has no spread, or none, as a network that is no diffusion model.

    Example:
        >>> evaluator = SupervisedEvaluator(inferer=UncertaintyInferer(inferer), ...)  # doctest: +SKIP
    """

    def __init__(self, inferer: StatisticsInferer) -> None:
        super().__init__()
        if not hasattr(inferer, "statistics"):
            raise ValueError(f"Uncertainty is that of several generations, of which {type(inferer).__name__} has none.")
        if inferer.num_generations < 2:
            raise ValueError(
                f"num_generations must be at least 2 for uncertainty, found {inferer.num_generations}: one generation "
                "has no spread."
            )
        self.inferer = inferer

    def __call__(  # type: ignore[override]
        self, inputs: torch.Tensor, network: nn.Module, *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """Return the channels of the three statistics; see :class:`~monai_segdiff.GenerationStatistics`."""
        found = self.inferer.statistics(inputs, network)
        return torch.cat([found.mean, found.standard_deviation, found.mutual_information], dim=1)
