# SPDX-License-Identifier: Apache-2.0
"""Mixed precision around another inferer, on any device."""

from __future__ import annotations

from typing import Any

import torch
from monai.inferers import Inferer
from torch import nn

__all__ = ["AutocastInferer"]


class AutocastInferer(Inferer):
    """Run another inferer in bfloat16, and return float32.

    MONAI's ``SupervisedTrainer(amp=True)`` is for CUDA alone and scales the loss, which bfloat16 does not need: it has
    the range of float32. Around the trainer's inferer, autocasting works on processors as well, and the loss is
    computed in float32. On a core with bfloat16 instructions SegDiff trains about 1.5 times as fast.

    Args:
        inferer: what runs the network, ``inferer(inputs, network, *args, **kwargs)``.
        enabled: False passes everything through as it is.

    Example:
        >>> from monai.inferers import SimpleInferer
        >>> AutocastInferer(SimpleInferer())(torch.ones(1, 2), torch.nn.Linear(2, 1)).dtype
        torch.float32
    """

    def __init__(self, inferer: Inferer, enabled: bool = True) -> None:
        super().__init__()
        self.inferer = inferer
        self.enabled = enabled

    def __call__(  # type: ignore[override]
        self, inputs: torch.Tensor, network: nn.Module, *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """Run the inferer; the arguments are its own."""
        if not self.enabled:
            return self.inferer(inputs, network, *args, **kwargs)
        with torch.autocast(inputs.device.type, dtype=torch.bfloat16):
            outputs = self.inferer(inputs, network, *args, **kwargs)
        return outputs.float()
