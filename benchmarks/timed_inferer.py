# SPDX-License-Identifier: Apache-2.0
"""Time that an inferer takes inside an evaluation."""

from __future__ import annotations

import time
from typing import Any

import torch
from monai.inferers import Inferer
from torch import nn

from .passes import synchronize

__all__ = ["TimedInferer"]


class TimedInferer(Inferer):
    """Return what another inferer does, and remember how long it took.

    The first image is segmented twice and timed the second time: the first call of a network pays for preparations.

    Args:
        inferer: what is timed.

    Attributes:
        seconds: of each call, in their order.
    """

    def __init__(self, inferer: Inferer) -> None:
        super().__init__()
        self.inferer = inferer
        self.seconds: list[float] = []

    def __call__(  # type: ignore[override]
        self, inputs: torch.Tensor, network: nn.Module, *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """Segment images; arguments and result are those of the inferer."""
        if not self.seconds:
            self.inferer(inputs, network, *args, **kwargs)
        synchronize(inputs.device)
        start = time.perf_counter()
        result: torch.Tensor = self.inferer(inputs, network, *args, **kwargs)
        synchronize(inputs.device)
        self.seconds.append(time.perf_counter() - start)
        return result
