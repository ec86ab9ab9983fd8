# SPDX-License-Identifier: Apache-2.0
"""Picture of quality and calibration against the number of generations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from monai_segdiff import atomic_write
from monai_segdiff.visualize.colors import LINE_COLORS

__all__ = ["draw_generations"]

CALIBRATION = {
    "expected_calibration_error": ("expected calibration error", "-"),
    "paper_calibration_score": ("paper's score", "--"),
    "brier_score": ("Brier score", ":"),
}


def draw_generations(path: Path, rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw Dice, and beside it calibration, against the number of generations: one colour for each file of weights.

    The band around Dice is one standard deviation over the orders of the generations to both sides.

    Args:
        path: PNG file to write.
        rows: of :func:`~benchmarks.generations.generations`.

    Returns:
        The figure.
    """
    figure = Figure(figsize=(11, 4.5), dpi=120, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    quality, calibration = figure.subplots(1, 2)
    for number, name in enumerate(dict.fromkeys(row["weights"] for row in rows)):
        lines = [row for row in rows if row["weights"] == name]
        color = LINE_COLORS[number % len(LINE_COLORS)]
        count, dice = ([row[key] for row in lines] for key in ("generations", "dice"))
        quality.plot(count, dice, color=color, marker=".", label=name)
        band = [row["dice_deviation"] or 0.0 for row in lines]
        low, high = ([d + sign * width for d, width in zip(dice, band, strict=True)] for sign in (-1, 1))
        quality.fill_between(count, low, high, color=color, alpha=0.2, linewidth=0)
        for score, (_, style) in CALIBRATION.items():
            calibration.plot(count, [row[score] for row in lines], color=color, linestyle=style)
    for label, style in CALIBRATION.values():
        calibration.plot([], [], color="#000000", linestyle=style, label=label)
    calibration.set_yscale("log")
    quality.set_ylabel("Dice, mean of images; band: +- deviation over orders")
    calibration.set_ylabel("Calibration, lower is better (logarithmic)")
    for axes in (quality, calibration):
        axes.set_xlabel("Generations")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3, which="both")
        axes.legend()
    with atomic_write(path) as temporary:
        canvas.print_png(temporary)
    return figure
