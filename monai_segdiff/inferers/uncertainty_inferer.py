# SPDX-License-Identifier: Apache-2.0
"""Probability and uncertainty as one result, for engines that know of one."""

from __future__ import annotations

from typing import Any

import torch
from monai.inferers import Inferer
from torch import nn

from .segdiff_inferer import SegDiffInferer

__all__ = ["UncertaintyInferer"]


class UncertaintyInferer(Inferer):
    """Give mean, standard deviation, entropy and mutual information over the generations, one after another.

    MONAI's engines take one tensor from an inferer, and transforms resize and invert it as one. Here it has four times
    the channels; :class:`~monai_segdiff.SplitStatisticsd` takes it apart again.

    Args:
        inferer: samples the generations, at least two.

    Raises:
        ValueError: it samples one generation, which has no spread.

    Example:
        >>> evaluator = SupervisedEvaluator(inferer=UncertaintyInferer(inferer), ...)  # doctest: +SKIP
    """

    def __init__(self, inferer: SegDiffInferer) -> None:
        super().__init__()
        if inferer.num_generations < 2:
            raise ValueError(
                f"num_generations must be at least 2 for uncertainty, found {inferer.num_generations}: one generation "
                "has no spread."
            )
        self.inferer = inferer

    def __call__(  # type: ignore[override]
        self, inputs: torch.Tensor, network: nn.Module, *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """Return ``[B, 4 * mask_channels, *spatial]``; see :class:`~monai_segdiff.GenerationStatistics`."""
        found = self.inferer.statistics(inputs, network)
        return torch.cat([found.mean, found.standard_deviation, found.entropy, found.mutual_information], dim=1)
