# SPDX-License-Identifier: Apache-2.0
"""The first stage of a mask prior's training."""

from __future__ import annotations

from ignite.engine import Engine, Events

from ..engines.mask_prior_prepare_batch import MaskPriorPrepareBatch

__all__ = ["SingleStepStage"]


class SingleStepStage:
    """Handler that trains the first epochs of a mask prior for the first step alone (arXiv 2306.01721, "single step").

    It depends on the epoch alone, so that a resumed run is in the stage that it left.

    Args:
        prepare_batch: makes the trainer's batches.
        epochs: length of the first stage: 0 leaves it out, all epochs make a network of one step.

    Raises:
        ValueError: a negative number of epochs.
    """

    def __init__(self, prepare_batch: MaskPriorPrepareBatch, epochs: int) -> None:
        if epochs < 0:
            raise ValueError(f"epochs must be at least 0, found {epochs}.")
        self.prepare_batch = prepare_batch
        self.epochs = epochs

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        self.prepare_batch.single_step = engine.state.epoch <= self.epochs
