# SPDX-License-Identifier: Apache-2.0
"""Picture of cost against what it depends on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from monai_segdiff import atomic_write

__all__ = ["draw_scaling"]

PANELS = (("size", "Image area (megapixels)"), ("generations", "Generations"), ("steps", "Steps"))
COSTS = (("seconds", 1.0, "Seconds for an image", "#0072B2"), ("peak_memory", 2.0**20, "Peak memory (MiB)", "#D55E00"))


def draw_scaling(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Draw time and memory, each from 0, against image area, generations and steps.

    Args:
        path: PNG file to write.
        rows: of :func:`~benchmarks.scaling.scaling`.
    """
    figure = Figure(figsize=(11, 6), dpi=120, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    grid = figure.subplots(len(COSTS), len(PANELS), sharey="row", squeeze=False)
    for line, (cost, unit, label, color) in enumerate(COSTS):
        for column, (factor, title) in enumerate(PANELS):
            axes = grid[line, column]
            shown = [row for row in rows if row["factor"] == factor]
            x = [row["size"] ** 2 / 1e6 if factor == "size" else row[factor] for row in shown]
            axes.plot(x, [row[cost] / unit for row in shown], color=color, marker="o")
            axes.set_xlim(left=0)
            axes.set_xticks(x, [f"{value:.3g}" for value in x])
            axes.grid(alpha=0.3)
            if line == len(COSTS) - 1:
                axes.set_xlabel(title)
        grid[line, 0].set_ylabel(label)
        # Last, since it stops the shared axis from growing.
        grid[line, 0].set_ylim(bottom=0)
    with atomic_write(path) as temporary:
        canvas.print_png(temporary)
