# SPDX-License-Identifier: Apache-2.0
"""A sampled segmentation behind the interface of an ordinary network."""

from __future__ import annotations

import torch
from monai.inferers import Inferer
from torch import nn

__all__ = ["DiffusionSegmentor"]


class DiffusionSegmentor(nn.Module):
    """Network and inferer in one module, for whatever only calls ``network(image)``.

    Args:
        network: the denoiser.
        inferer: samples masks with it, e.g. :class:`~monai_segdiff.SegDiffInferer`.

    Example:
        >>> segmentor = DiffusionSegmentor(network, inferer)  # doctest: +SKIP
        >>> probability = segmentor(image)  # doctest: +SKIP
    """

    def __init__(self, network: nn.Module, inferer: Inferer) -> None:
        super().__init__()
        self.network = network
        self.inferer = inferer

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return the inferer's result for ``image`` ``[B, C, *spatial]``."""
        return self.inferer(image, self.network)
