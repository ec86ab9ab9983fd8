# SPDX-License-Identifier: Apache-2.0
"""Picture of calibration."""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..data.atomic_write import atomic_write
from ..metrics.calibration_score import calibration_scores
from .colors import LINE_COLORS

__all__ = ["draw_reliability_diagram"]


def draw_reliability_diagram(
    path: str | os.PathLike[str],
    counts: Mapping[str, np.ndarray],
    title: str | None = None,
    axis_labels: tuple[str, str] = ("Predicted probability of foreground", "Share of foreground"),
) -> None:
    """Write a PNG of the share of foreground against the predicted probability, bin by bin.

    On the dashed diagonal, probabilities mean what they say; below it they are too high. The lower part shows the
    number of pixels in each bin, logarithmically. Empty bins are left out of both. The legend gives the expected
    calibration error.

    Args:
        path: PNG file to write; its folder is made.
        counts: name and (summed) :func:`monai_segdiff.calibration_counts`, ``[num_bins, 3]``, of each line.
        title: title of the picture.
        axis_labels: what is predicted, and what is true.

    Raises:
        ValueError: there is no line, or one has another shape or no pixel.

    Example:
        >>> counts = calibration_counts(probability, truth)  # doctest: +SKIP
        >>> draw_reliability_diagram("reliability.png", {"validation": counts})  # doctest: +SKIP
    """
    canvas = FigureCanvasAgg(_figure(counts, title, axis_labels))
    with atomic_write(path) as temporary:
        canvas.print_png(temporary)


def _figure(counts: Mapping[str, np.ndarray], title: str | None, axis_labels: tuple[str, str]) -> Figure:
    if not counts:
        raise ValueError("counts are empty, expected at least one name.")
    figure = Figure(figsize=(6, 7.5), dpi=120, layout="constrained")
    reliability, histogram = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    reliability.plot([0, 1], [0, 1], color="#808080", linestyle="--", label="perfect")
    for index, (name, values) in enumerate(counts.items()):
        color = LINE_COLORS[index % len(LINE_COLORS)]
        error = calibration_scores(values)["expected_calibration_error"]
        pixels = values[:, 0]
        probability, share = (values[pixels > 0, 1:] / pixels[pixels > 0, None]).T
        reliability.plot(probability, share, color=color, marker="o", label=f"{name}, ECE {error:.4f}")
        edges = np.linspace(0, 1, len(pixels) + 1)
        histogram.stairs(np.where(pixels > 0, pixels, np.nan), edges, baseline=None, color=color, linewidth=2)
    reliability.set_ylabel(axis_labels[1])
    reliability.set_ylim(-0.02, 1.02)
    reliability.legend()
    histogram.set_yscale("log")
    # A single pixel is still above the axis, and the largest bin below the frame.
    histogram.set_ylim(0.5, 2 * max(values[:, 0].max() for values in counts.values()))
    histogram.set_ylabel("Pixels (logarithmic)")
    histogram.set_xlabel(axis_labels[0])
    histogram.set_xlim(-0.02, 1.02)
    for axes in (reliability, histogram):
        axes.grid(alpha=0.3)
    if title is not None:
        reliability.set_title(title)
    return figure
