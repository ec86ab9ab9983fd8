# SPDX-License-Identifier: Apache-2.0
"""Picture of quality against steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from monai_segdiff import atomic_write
from monai_segdiff.visualize.colors import LINE_COLORS

__all__ = ["draw_few_steps"]

LINES = (("-", "o"), ("--", "s"), (":", "^"), ("-.", "D"))


def draw_few_steps(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Draw Dice against steps: one colour for each file of weights, one kind of line for each number of generations.

    Args:
        path: PNG file to write.
        rows: with ``weights``, ``steps``, ``generations`` and ``dice``.
    """
    figure = Figure(figsize=(8, 5), dpi=120, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    names = list(dict.fromkeys(row["weights"] for row in rows))
    numbers = sorted({row["generations"] for row in rows})
    for name in names:
        for number in numbers:
            line = [row for row in rows if row["weights"] == name and row["generations"] == number]
            points = sorted((row["steps"], row["dice"]["value"]) for row in line)
            style, marker = LINES[numbers.index(number) % len(LINES)]
            axes.plot(
                *([point[i] for point in points] for i in (0, 1)),
                color=LINE_COLORS[names.index(name) % len(LINE_COLORS)],
                linestyle=style,
                marker=marker,
                label=f"{name}, {number} generation{'s' if number > 1 else ''}" if points else None,
            )
    steps = sorted({row["steps"] for row in rows})
    axes.set_xscale("log")
    axes.set_xticks(steps, [str(step) for step in steps])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("Steps of the sampler (logarithmic)")
    axes.set_ylabel("Dice, mean of images")
    axes.grid(alpha=0.3)
    axes.legend()
    with atomic_write(path) as temporary:
        canvas.print_png(temporary)
