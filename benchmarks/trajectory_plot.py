# SPDX-License-Identifier: Apache-2.0
"""Picture of quality along the sampler's steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from monai_segdiff import atomic_write
from monai_segdiff.visualize.colors import LINE_COLORS

__all__ = ["draw_trajectory"]

SCORES = {"dice": "Dice", "iou": "IoU"}


def draw_trajectory(path: Path, rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw Dice, and beside it IoU, against the step: one colour for each file of weights.

    Args:
        path: PNG file to write.
        rows: with ``weights``, ``step``, ``dice`` and ``iou``.

    Returns:
        The figure.
    """
    figure = Figure(figsize=(11, 4.5), dpi=120, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    for axes, (score, label) in zip(figure.subplots(1, 2), SCORES.items(), strict=True):
        for number, name in enumerate(dict.fromkeys(row["weights"] for row in rows)):
            lines = [row for row in rows if row["weights"] == name]
            steps, values = ([row[key] for row in lines] for key in ("step", score))
            axes.plot(steps, values, color=LINE_COLORS[number % len(LINE_COLORS)], marker=".", label=name)
        axes.set_xlabel("Step of the sampler, from noise")
        axes.set_ylabel(f"{label} of the predicted clean mask, mean of images")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend()
    with atomic_write(path) as temporary:
        canvas.print_png(temporary)
    return figure
