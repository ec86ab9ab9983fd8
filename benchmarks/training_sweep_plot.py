# SPDX-License-Identifier: Apache-2.0
"""Picture of scores against what the trainings differ in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from monai_segdiff import atomic_write
from monai_segdiff.visualize.colors import LINE_COLORS

__all__ = ["draw_training_sweep"]

SCORES = (("dice", "Dice"), ("iou", "IoU"))


def draw_training_sweep(path: Path, rows: Sequence[Mapping[str, Any]], label: str | None = None) -> None:
    """Draw Dice and IoU of each arm: a dot for each seed, their mean, and its 95 % interval over images.

    Arms that all have a ``value`` stand along a numeric axis, joined by a line; others below one another.

    Args:
        path: PNG file to write.
        rows: of :func:`~benchmarks.training_sweep.training_sweep`.
        label: what the arms differ in.
    """
    names = list(dict.fromkeys(row["arm"] for row in rows))
    numeric = all(row["value"] is not None for row in rows)
    size = (11.0, 5.0) if numeric else (11.0, 2 + 0.5 * len(names))
    figure = Figure(figsize=size, dpi=120, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(SCORES), sharey=not numeric)
    for axes, (score, title) in zip(panels, SCORES, strict=True):
        shown = f"{title}, mean of images\n(dots: seeds; bars: 95 % interval over images)"
        if numeric:
            _draw(axes, rows, score, [row["value"] for row in rows], joined=True)
            values = sorted({row["value"] for row in rows})
            axes.set_xticks(values, [f"{value:g}" for value in values])
            axes.set(xlabel=label, ylabel=shown)
        else:
            _draw(axes, rows, score, [names.index(row["arm"]) for row in rows], joined=False)
            axes.set_yticks(range(len(names)), names)
            axes.set(xlabel=shown)
        axes.grid(alpha=0.3)
    if not numeric:
        panels[0].set(ylabel=label, ylim=(len(names) - 0.5, -0.5))
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
    with atomic_write(path) as temporary:
        canvas.print_png(temporary)


def _draw(axes: Axes, rows: Sequence[Mapping[str, Any]], score: str, places: Sequence[float], joined: bool) -> None:
    """Draw the settings beside one another; places are along x if joined, else along y."""
    number = len(rows) // len({row["arm"] for row in rows})
    width = 0.15 * min(np.diff(sorted(set(places))), default=1.0)
    for i in range(number):
        shift = (i - (number - 1) / 2) * width
        # Every arm has its settings in the same order.
        own = sorted(zip(places[i::number], rows[i::number], strict=True), key=lambda pair: pair[0])
        at = [place + shift for place, _ in own]
        means = np.array([row[score]["value"] for _, row in own])
        ends = np.array([row[score]["interval"] or (row[score]["value"],) * 2 for _, row in own])
        # Round-off may put the mean of equal images outside.
        lengths = np.maximum([means - ends[:, 0], ends[:, 1] - means], 0)
        style: dict[str, Any] = {"color": LINE_COLORS[i % len(LINE_COLORS)], "label": _label(rows[i::number])}
        seeds = [(place + shift, seed[score]) for place, row in own for seed in row["seeds"]]
        x, y = [place for place, _ in seeds], [value for _, value in seeds]
        if joined:
            axes.errorbar(at, means, yerr=lengths, marker="_", capsize=3, **style)
        else:
            axes.errorbar(means, at, xerr=lengths, marker="|", linestyle="none", capsize=3, **style)
            x, y = y, x
        axes.scatter(x, y, color=style["color"], s=18, zorder=3)


def _label(rows: Sequence[Mapping[str, Any]]) -> str:
    settings = {(row["steps"], row["generations"]) for row in rows}
    if len(settings) > 1:
        return "steps and generations of its own configs"
    ((steps, generations),) = settings
    return f"{steps} step{'s' * (steps > 1)}, {generations} generation{'s' * (generations > 1)}"
