# SPDX-License-Identifier: Apache-2.0
"""Keeping the weights of the best validation."""

from __future__ import annotations

from pathlib import Path

import ignite.distributed as idist
import torch
from ignite.engine import Events
from monai.engines import Workflow
from torch import nn

from .atomic_save import atomic_save

__all__ = ["BestModelSaver"]


class BestModelSaver:
    """Handler of the evaluator that writes a network's plain state dict whenever the key metric is the best so far.

    Args:
        network: whose weights to save: the averaged network that the evaluator runs.
        path: file to write, atomically.
        dtype: floating-point type on disk; ``torch.float16`` halves the file. Default: as in the network.
    """

    def __init__(self, network: nn.Module, path: str | Path, dtype: torch.dtype | None = None) -> None:
        self.network = network
        self.path = path
        self.dtype = dtype

    def attach(self, engine: Workflow) -> None:
        """Register with an evaluator that has a key metric."""
        if idist.get_rank() == 0:
            engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Workflow) -> None:
        if engine.state.best_metric_epoch != engine.state.epoch:
            return
        state = getattr(self.network, "module", self.network).state_dict()
        # On the CPU, so that the file loads on machines without the training device.
        atomic_save({key: value.cpu().to(self._dtype_of(value)) for key, value in state.items()}, self.path)

    def _dtype_of(self, value: torch.Tensor) -> torch.dtype:
        return self.dtype if self.dtype is not None and value.is_floating_point() else value.dtype
