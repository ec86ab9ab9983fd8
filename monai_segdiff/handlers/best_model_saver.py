# SPDX-License-Identifier: Apache-2.0
"""Keeping the weights of the best validation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ignite.distributed as idist
from ignite.engine import Events
from monai.engines import Workflow
from torch import nn

from ..data.atomic_write import atomic_write
from .atomic_save import atomic_save

__all__ = ["BestModelSaver"]


class BestModelSaver:
    """Handler of the evaluator that writes a network's plain state dict whenever the key metric is the best so far.

    Args:
        network: whose weights to save: the averaged network that the evaluator runs.
        path: file to write, atomically.
        settings: what the weights depend on and their shapes do not show, such as what the network predicts; written
            beside them, as ``.json`` of the same name, for :func:`load_weights` to compare.
    """

    def __init__(self, network: nn.Module, path: str | Path, settings: Mapping[str, Any] | None = None) -> None:
        self.network = network
        self.path = Path(path)
        self.settings = settings

    def attach(self, engine: Workflow) -> None:
        """Register with an evaluator that has a key metric."""
        if idist.get_rank() == 0:
            engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Workflow) -> None:
        if engine.state.best_metric_epoch != engine.state.epoch:
            return
        state = getattr(self.network, "module", self.network).state_dict()
        # On the CPU, so that the file loads on machines without the training device.
        atomic_save({key: value.cpu() for key, value in state.items()}, self.path)
        if self.settings is not None:
            with atomic_write(self.path.with_suffix(".json")) as temporary:
                temporary.write_text(json.dumps(dict(self.settings), indent=2) + "\n", encoding="utf-8")
