# SPDX-License-Identifier: Apache-2.0
"""One bar for a whole run."""

from __future__ import annotations

import ignite.distributed as idist
from ignite.engine import Events
from monai.engines import Workflow
from monai.handlers import from_engine
from tqdm import tqdm

__all__ = ["ProgressBar"]


class ProgressBar:
    """Handler that shows how far an engine's whole run is: iterations of all epochs, loss, best and last metric.

    Args:
        description: text before the bar.
        unit: what an iteration is.
        show_loss: show epoch and loss; for trainers.
        evaluator: validation engine whose key metric is shown.
    """

    def __init__(
        self, description: str, unit: str = "it", show_loss: bool = False, evaluator: Workflow | None = None
    ) -> None:
        self.description = description
        self.unit = unit
        self.show_loss = show_loss
        self.evaluator = evaluator
        self.bar: tqdm | None = None

    def attach(self, engine: Workflow) -> None:
        """Register with a trainer or evaluator; only the first process shows a bar."""
        if idist.get_rank() == 0:
            engine.add_event_handler(Events.EPOCH_STARTED, self._open)
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._update)
            engine.add_event_handler(Events.COMPLETED, self._finish)
            engine.add_event_handler(Events.EXCEPTION_RAISED, self._fail)

    def _open(self, engine: Workflow) -> None:
        # Not at the start of the run: handlers that resume it change the epoch then.
        if self.bar is None:
            state = engine.state
            total = state.epoch_length * state.max_epochs if self.show_loss else state.epoch_length
            done = state.iteration if self.show_loss else 0
            self.bar = tqdm(total=total, initial=done, desc=self.description, unit=self.unit, dynamic_ncols=True)

    def _update(self, engine: Workflow) -> None:
        if self.bar is not None:
            self._show_values(engine)
            self.bar.update(1)

    def _show_values(self, engine: Workflow) -> None:
        if self.bar is not None and self.show_loss:
            shown = {"epoch": f"{engine.state.epoch}/{engine.state.max_epochs}"}
            shown["loss"] = f"{from_engine('loss', first=True)(engine.state.output):.4f}"
            if self.evaluator is not None and self.evaluator.state.best_metric_epoch > 0:
                last = self.evaluator.state.metrics.get(self.evaluator.state.key_metric_name)
                shown["Dice"] = "-" if last is None else f"{last:.4f}"
                shown["best"] = f"{self.evaluator.state.best_metric:.4f}"
            self.bar.set_postfix(shown, refresh=False)

    def _finish(self, engine: Workflow) -> None:
        self._show_values(engine)  # the last epoch's validation came after its last iteration
        self._close(engine)

    def _close(self, engine: Workflow) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def _fail(self, engine: Workflow, error: Exception) -> None:
        self._close(engine)
        raise error
