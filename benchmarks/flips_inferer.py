# SPDX-License-Identifier: Apache-2.0
"""The mean over flips and turns of an image."""

from __future__ import annotations

from typing import Any

import torch
from monai.inferers import Inferer
from torch import nn

__all__ = ["FlipsInferer"]


class FlipsInferer(Inferer):
    """Return the mean of what another inferer finds in the eight flips and turns of an image.

    These are the symmetries of the square: turned by 0, 90, 180 and 270 degrees, each as it is and mirrored. Every
    result is turned back before the mean is taken, so that it takes eight times as long.

    Args:
        inferer: what segments each of them, ``inferer(images, network)``.

    Example:
        >>> class Brightness(Inferer):
        ...     def __call__(self, inputs, network):
        ...         return inputs.mean(dim=1, keepdim=True)
        >>> FlipsInferer(Brightness())(torch.tensor([[[[0.0, 1.0]]]]), torch.nn.Identity())
        tensor([[[[0., 1.]]]])
    """

    def __init__(self, inferer: Inferer) -> None:
        super().__init__()
        self.inferer = inferer

    def __call__(  # type: ignore[override]
        self, inputs: torch.Tensor, network: nn.Module, *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """Segment images ``[B, C, H, W]``; other arguments and the result are those of the inferer."""
        found = []
        for turns in range(4):
            turned = inputs.rot90(turns, (2, 3))
            found.append(self.inferer(turned, network, *args, **kwargs).rot90(-turns, (2, 3)))
            mirrored = self.inferer(turned.flip(3), network, *args, **kwargs)
            found.append(mirrored.flip(3).rot90(-turns, (2, 3)))
        return torch.stack(found).mean(dim=0)
