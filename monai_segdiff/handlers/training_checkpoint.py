# SPDX-License-Identifier: Apache-2.0
"""Saving and resuming a whole training run."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from monai.data.utils import set_rnd
from monai.engines import Workflow
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from ..exceptions import CheckpointError
from .atomic_save import atomic_save
from .strict_checkpoint_loader import check_settings, load_state, read_checkpoint

__all__ = ["TrainingCheckpoint", "checkpoint_epoch"]

logger = logging.getLogger(__name__)


class TrainingCheckpoint:
    """Handler that saves everything a run needs to go on, and goes on from it.

    One file, ``checkpoint.pt``, is replaced atomically: killed at any moment, the run can be resumed. It holds the
    objects of ``save_dict``, the trainer's epoch and iteration, and the evaluator's best metric, without which a
    resumed run would overwrite the best model by a worse one. A resumed run draws new random numbers.

    Args:
        path: the checkpoint file.
        save_dict: objects with ``state_dict``, by name: network, averaged network, optimiser, schedule, curves.
        evaluator: the validation engine.
        interval: epochs between two saves. The last epoch is saved as well.
        resume: go on from ``path`` when the trainer starts.
        settings: what the weights depend on and their shapes do not show; must be the same on resuming.

    Raises:
        CheckpointError: when the trainer starts: nothing to resume, a damaged file, a file of another network or other
            settings, or a run that has already reached ``max_epochs``.
    """

    def __init__(
        self,
        path: str | Path,
        save_dict: Mapping[str, Any],
        evaluator: Workflow | None = None,
        interval: int = 1,
        resume: bool = False,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.path = Path(path)
        self.save_dict = {name: getattr(item, "module", item) for name, item in save_dict.items()}
        self.evaluator = evaluator
        self.interval = interval
        self.resume = resume
        self.settings = dict(settings or {})
        self.saved_epoch: int | None = None

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        if self.resume:
            engine.add_event_handler(Events.STARTED, self.load)
        if idist.get_rank() == 0:
            engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.interval) | Events.COMPLETED, self.save)

    def save(self, engine: Engine) -> None:
        """Write the checkpoint, unless the epoch has been saved already."""
        if engine.state.epoch == self.saved_epoch:
            return
        state: dict[str, Any] = {name: item.state_dict() for name, item in self.save_dict.items()}
        state["trainer"] = {"epoch": engine.state.epoch, "iteration": engine.state.iteration}
        state["settings"] = self.settings
        if self.evaluator is not None:
            # Metrics may be numpy scalars, which a safe load refuses.
            best = self.evaluator.state.best_metric, self.evaluator.state.best_metric_epoch
            state["evaluator"] = {"best_metric": float(best[0]), "best_metric_epoch": int(best[1])}
        atomic_save(state, self.path)
        self.saved_epoch = engine.state.epoch

    def load(self, engine: Engine) -> None:
        """Restore every object from the checkpoint."""
        checkpoint = read_checkpoint(self.path)
        held = checkpoint if isinstance(checkpoint, Mapping) else {}
        absent = [name for name in (*self.save_dict, "trainer") if name not in held]
        if absent:
            raise CheckpointError(f"Checkpoint {self.path} is not one of a whole training run: it lacks {absent}.")
        epoch, iteration = checkpoint["trainer"]["epoch"], checkpoint["trainer"]["iteration"]
        if epoch >= engine.state.max_epochs:
            raise CheckpointError(
                f"The run in {self.path} has already done {epoch} epochs; give a larger max_epochs than "
                f"{engine.state.max_epochs} to train on."
            )
        check_settings(checkpoint.get("settings", {}), self.settings, self.path)
        # Networks first: they tell whether the checkpoint fits before anything else is changed.
        for name, item in self.save_dict.items():
            if isinstance(item, nn.Module):
                load_state(item, checkpoint[name], self.path)
        for name, item in self.save_dict.items():
            if isinstance(item, LRScheduler):
                # Its position alone: its length is this run's, which may be longer than the saved one's.
                position = {key: checkpoint[name][key] for key in ("last_epoch", "_step_count", "_last_lr")}
                item.load_state_dict(item.state_dict() | position)
            elif not isinstance(item, nn.Module):
                item.load_state_dict(checkpoint[name])
        engine.state.epoch, engine.state.iteration = epoch, iteration
        if self.evaluator is not None and "evaluator" in checkpoint:
            self.evaluator.state.best_metric = checkpoint["evaluator"]["best_metric"]
            self.evaluator.state.best_metric_epoch = checkpoint["evaluator"]["best_metric_epoch"]
        # The seed of the run would repeat the crops, augmentations and noise of its first epochs.
        seed = (torch.initial_seed() + iteration) % 2**32
        torch.manual_seed(seed)
        set_rnd(engine.data_loader.dataset, seed)  # type: ignore[attr-defined]
        logger.info("Resumed %s after epoch %d.", self.path, epoch)


def checkpoint_epoch(path: str | Path) -> int:
    """Return how many epochs a training has done by its checkpoint; 0 if there is none yet.

    Raises:
        CheckpointError: a damaged file, or not a checkpoint of a training.
    """
    if not Path(path).is_file():
        return 0
    checkpoint = read_checkpoint(path)
    trainer = checkpoint.get("trainer") if isinstance(checkpoint, Mapping) else None
    if not isinstance(trainer, Mapping) or "epoch" not in trainer:
        raise CheckpointError(f"Checkpoint {path} is not one of a whole training run: it lacks the epoch.")
    return int(trainer["epoch"])
