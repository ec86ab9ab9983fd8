# SPDX-License-Identifier: Apache-2.0
"""Loss and validation score of a training run, as numbers and as a picture."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine, Events
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from monai.config import PathLike
from monai.utils import CommonKeys

from ..data.atomic_write import atomic_write

__all__ = ["TrainingCurves"]

_PENDING = 100
_DRAWN_POINTS = 4000
_MAX_SHARE = 0.05
_CHEAP_SECONDS = 0.05
_LOSS_COLOR = "#0072B2"
_METRIC_COLOR = "#D55E00"


class _Throttle:
    """Keeps a repeated write from costing more than a small share of the run."""

    def __init__(self, interval: float) -> None:
        self.interval = interval
        self.last: float | None = None
        self.cost = 0.0

    def call(self, action: Callable[[], None], force: bool) -> None:
        start = time.monotonic()
        # A long history takes long to write: wait longer between writes as it grows.
        wait = max(self.interval, self.cost / _MAX_SHARE if self.cost > _CHEAP_SECONDS else 0.0)
        if not force and self.last is not None and start - self.last < wait:
            return
        action()
        self.last = time.monotonic()
        self.cost = self.last - start


def _trailing_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Mean of the last ``window`` finite values at each position; NaN where there is none."""
    finite = np.isfinite(values)
    sums = np.cumsum(np.where(finite, values, 0.0))
    counts = np.cumsum(finite)
    sums[window:] = sums[window:] - sums[:-window]
    counts[window:] = counts[window:] - counts[:-window]
    return np.divide(sums, counts, out=np.full(len(values), np.nan), where=counts > 0)


class TrainingCurves:
    """Records the loss of every iteration and the score of every validation; writes ``history.json``, ``curves.png``.

    ``history.json``: ``{"loss": {"iteration": [...], "value": [...]}, "validation": {"metric": name, "epoch": [...],
    "iteration": [...], "value": [...]}}``; values that are not finite are null. It is written at the end of each epoch
    and of each validation (less often once writing takes more than 5 % of the time), the picture at most every
    ``draw_interval`` seconds, and both at the end of the run. Only rank 0 records and writes.

    A run that resumes continues the history that it finds, up to the iteration that it goes on from. Attach this
    handler after the one that restores the run.

    Args:
        output_dir: folder to write to; created if needed.
        evaluator: the validating evaluator, or None if the run has none.
        metric_name: name of the score in the evaluator's ``state.metrics``.
        draw_interval: least time between two pictures, in seconds.
        resume: continue the ``history.json`` in ``output_dir``.

    Example:
        >>> curves = TrainingCurves("run", evaluator, metric_name="val_dice")  # doctest: +SKIP
        >>> curves.attach(trainer)  # doctest: +SKIP
    """

    def __init__(
        self,
        output_dir: PathLike,
        evaluator: Engine | None = None,
        metric_name: str = "val_dice",
        draw_interval: float = 5.0,
        resume: bool = False,
    ) -> None:
        self.output_dir = Path(output_dir)
        self.evaluator = evaluator
        self.metric_name = metric_name
        self.resume = resume
        self._loss: dict[str, list[Any]] = {"iteration": [], "value": []}
        self._validation: dict[str, list[Any]] = {"epoch": [], "iteration": [], "value": []}
        self._pending: list[tuple[int, torch.Tensor]] = []
        self._json_throttle = _Throttle(0.0)
        self._draw_throttle = _Throttle(draw_interval)

    def attach(self, engine: Engine) -> None:
        """Attach to the trainer, and to the evaluator given to the constructor.

        Args:
            engine: trainer whose output holds ``"loss"``, decollated or not.
        """
        if idist.get_rank() != 0:
            return
        if self.resume:
            engine.add_event_handler(Events.STARTED, self._continue)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._record_loss)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._write, force=False)
        engine.add_event_handler(Events.COMPLETED, self._write, force=True)
        if self.evaluator is not None:
            self.evaluator.add_event_handler(Events.COMPLETED, self._record_metric, engine)

    def _continue(self, engine: Engine) -> None:
        """Take over the history of the run so far; what lies behind the restored iteration will be run again."""
        path = self.output_dir / "history.json"
        if not path.is_file():
            return
        history = json.loads(path.read_text(encoding="utf-8"))
        for columns, saved in ((self._loss, history["loss"]), (self._validation, history["validation"])):
            kept = [i for i, iteration in enumerate(saved["iteration"]) if iteration <= engine.state.iteration]
            for name in columns:
                columns[name] = [math.nan if saved[name][i] is None else saved[name][i] for i in kept]

    def _record_loss(self, engine: Engine) -> None:
        output: Any = engine.state.output
        # Decollating copies the one loss of the batch into every item.
        loss = (output[0] if isinstance(output, list) else output)[CommonKeys.LOSS]
        # Without decollating the loss is still on the GPU, and reading it waits for the GPU: collect some before doing
        # so. The copy is needed because the tensor may be overwritten by the next iteration.
        self._pending.append((engine.state.iteration, torch.as_tensor(loss).detach().float().mean().clone()))
        if len(self._pending) >= _PENDING:
            self._collect()

    def _collect(self) -> None:
        if self._pending:
            self._loss["iteration"] += [iteration for iteration, _ in self._pending]
            self._loss["value"] += torch.stack([value for _, value in self._pending]).tolist()
            self._pending = []

    def _record_metric(self, evaluator: Engine, trainer: Engine) -> None:
        metrics = evaluator.state.metrics
        if self.metric_name not in metrics:
            raise ValueError(f"the evaluator has metrics {sorted(metrics)}, expected {self.metric_name!r} among them.")
        self._validation["epoch"].append(trainer.state.epoch)
        self._validation["iteration"].append(trainer.state.iteration)
        self._validation["value"].append(float(metrics[self.metric_name]))
        self._write(trainer, force=False)

    def _write(self, engine: Engine, force: bool) -> None:
        self._collect()
        self._json_throttle.call(self._write_json, force)
        self._draw_throttle.call(self._draw, force)

    def _write_json(self) -> None:
        def clean(columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
            values = [value if math.isfinite(value) else None for value in columns["value"]]
            return {**columns, "value": values}

        history = {"loss": clean(self._loss), "validation": {"metric": self.metric_name, **clean(self._validation)}}
        with atomic_write(self.output_dir / "history.json") as temporary:
            temporary.write_text(json.dumps(history, allow_nan=False) + "\n", encoding="utf-8")

    def _draw(self) -> None:
        # Figure objects instead of pyplot: no global state, no window, safe next to a user's own plots.
        figure = Figure(figsize=(9, 5), dpi=120, layout="constrained")
        canvas = FigureCanvasAgg(figure)
        loss_axes = figure.add_subplot()
        loss_axes.set_xlabel("Iteration")
        loss_axes.set_ylabel("Training loss", color=_LOSS_COLOR)
        loss_axes.grid(alpha=0.3)
        handles = self._draw_loss(loss_axes)
        values = np.asarray(self._validation["value"], dtype=float)
        if len(values):
            metric_axes = loss_axes.twinx()
            name = f"Validation {self.metric_name.removeprefix('val_')}"
            handles += metric_axes.plot(
                self._validation["iteration"], values, color=_METRIC_COLOR, marker="o", markersize=4, label=name
            )
            metric_axes.set_ylabel(f"{name} (0 to 1)", color=_METRIC_COLOR)
            finite = values[np.isfinite(values)]
            if len(finite) and finite.min() >= 0 and finite.max() <= 1:
                metric_axes.set_ylim(0, 1.02)
            else:
                metric_axes.set_ylabel(name, color=_METRIC_COLOR)
        if handles:
            figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), frameon=False)
        with atomic_write(self.output_dir / "curves.png") as temporary:
            canvas.print_png(temporary)

    def _draw_loss(self, axes: Any) -> list[Any]:
        iterations = np.asarray(self._loss["iteration"])
        losses = np.asarray(self._loss["value"], dtype=float)
        if not np.isfinite(losses).any():
            return []
        window = max(1, len(losses) // 50)
        smooth = _trailing_mean(losses, window)
        shown = np.unique(np.linspace(0, len(losses) - 1, min(len(losses), _DRAWN_POINTS)).astype(int))
        alpha, width = (0.3, 0.8) if window > 1 else (1.0, 1.8)  # pale only behind the smoothed line
        label = "Loss per iteration"
        handles = axes.plot(
            iterations[shown], losses[shown], color=_LOSS_COLOR, alpha=alpha, linewidth=width, label=label
        )
        if window > 1:
            label = f"Loss, mean of {window} iterations"
            handles += axes.plot(iterations[shown], smooth[shown], color=_LOSS_COLOR, linewidth=1.8, label=label)
        if losses[np.isfinite(losses)].min() > 0:
            axes.set_yscale("log")
            axes.set_ylabel("Training loss (logarithmic)", color=_LOSS_COLOR)
        return handles
