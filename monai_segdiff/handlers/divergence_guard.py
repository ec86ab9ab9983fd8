# SPDX-License-Identifier: Apache-2.0
"""Ending a training run whose loss is no longer a number."""

from __future__ import annotations

import math
from pathlib import Path

from ignite.engine import Engine, Events
from monai.utils import CommonKeys

from ..exceptions import DivergenceError

__all__ = ["DivergenceGuard"]


class DivergenceGuard:
    """Handler that raises when the loss is NaN or infinite, before the averaged weights take it in.

    Attach it before the handler that averages weights.

    Args:
        checkpoint: where the run saves its state, named in the error.

    Raises:
        DivergenceError: during training, when the loss is not finite.
    """

    def __init__(self, checkpoint: str | Path) -> None:
        self.checkpoint = checkpoint

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        output = engine.state.output
        # Decollating copies the one loss of the batch into every item.
        loss = float((output[0] if isinstance(output, list) else output)[CommonKeys.LOSS])  # type: ignore[index]
        if not math.isfinite(loss):
            raise DivergenceError(
                f"The loss is {loss} at iteration {engine.state.iteration}, expected a finite number: training has "
                f"diverged. Resume from {self.checkpoint}, if it is there, with a lower learning rate."
            )
