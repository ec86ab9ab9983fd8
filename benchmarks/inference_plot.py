# SPDX-License-Identifier: Apache-2.0
"""Picture of quality against time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from monai_segdiff import atomic_write

__all__ = ["draw_inference"]


def draw_inference(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Draw Dice against the time of a whole image, one point for each procedure; hollow where the time was scaled.

    Args:
        path: PNG file to write.
        rows: of :func:`~benchmarks.inference.compare_inference`; those without Dice are left out.
    """
    figure = Figure(figsize=(9, 5.5), dpi=120, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    scored = [row for row in rows if row["dice"] is not None]
    times = [row["full_image"]["seconds"] for row in scored]
    dice = [row["dice"]["value"] for row in scored]
    axes.plot(times, dice, color="#999999", linewidth=0.8, zorder=1)
    for number, (row, x, y) in enumerate(zip(scored, times, dice, strict=True), start=1):
        face = "white" if row["full_image"]["seconds_are_scaled"] else "#0072B2"
        axes.scatter(x, y, s=45, facecolor=face, edgecolor="#0072B2", zorder=2, label=f"{number}  {row['name']}")
        # Numbers, since the names of points that lie close together would cover each other; stacked where they do.
        height = 5 + 11 * _count_near(times, dice, number - 1)
        axes.annotate(str(number), (x, y), xytext=(5, height), textcoords="offset points")
    axes.set_xscale("log")
    axes.margins(0.1)
    axes.set_xlabel("Seconds for an image (logarithmic); hollow: scaled from fewer passes")
    axes.set_ylabel("Dice, mean of images")
    axes.grid(alpha=0.3, which="both")
    if scored:
        figure.legend(loc="outside right upper", frameon=False, markerscale=0.7)
    with atomic_write(path) as temporary:
        canvas.print_png(temporary)


def _count_near(times: Sequence[float], dice: Sequence[float], at: int) -> int:
    """Count the points before one whose numbers would stand where its own does."""
    width = max(math.log(max(times) / min(times)), 1e-6)
    height = max(max(dice) - min(dice), 1e-6)
    pairs = zip(times[:at], dice[:at], strict=True)
    return sum(abs(math.log(x / times[at])) < width / 20 and abs(y - dice[at]) < height / 20 for x, y in pairs)
