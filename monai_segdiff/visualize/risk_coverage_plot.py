# SPDX-License-Identifier: Apache-2.0
"""Picture of what uncertainty is good for."""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..data.atomic_write import atomic_write
from .colors import LINE_COLORS

__all__ = ["draw_risk_coverage"]

Curve = tuple[np.ndarray, np.ndarray]


def draw_risk_coverage(
    path: str | os.PathLike[str],
    curves: Mapping[str, Curve],
    oracle: Curve | None = None,
    error_rate: float | None = None,
    title: str | None = None,
) -> None:
    """Write a PNG of the share of wrong pixels among the surest ones, against how many are kept.

    Args:
        path: PNG file to write; its folder is made.
        curves: name of each line, and its coverage and risk, as of :func:`monai_segdiff.risk_coverage_curve`.
        oracle: coverage and risk of the best possible uncertainty, drawn dashed; see
            :func:`monai_segdiff.oracle_risk`.
        error_rate: share of wrong pixels, drawn as a dotted flat line: what an uncertainty that says nothing reaches.
        title: title of the picture.

    Raises:
        ValueError: there is no line, or coverage and risk have not the same length.

    Example:
        >>> curve = risk_coverage_curve(entropy, prediction != truth)  # doctest: +SKIP
        >>> draw_risk_coverage("risk_coverage.png", {"entropy": curve})  # doctest: +SKIP
    """
    canvas = FigureCanvasAgg(_figure(curves, oracle, error_rate, title))
    with atomic_write(path) as temporary:
        canvas.print_png(temporary)


def _figure(curves: Mapping[str, Curve], oracle: Curve | None, error_rate: float | None, title: str | None) -> Figure:
    if not curves:
        raise ValueError("curves are empty, expected at least one name.")
    figure = Figure(figsize=(7, 5), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    for index, (name, (coverage, risk)) in enumerate(curves.items()):
        axes.plot(coverage, risk, color=LINE_COLORS[index % len(LINE_COLORS)], label=name)
    if oracle is not None:
        axes.plot(*oracle, color="#000000", linestyle="--", label="best possible")
    if error_rate is not None:
        axes.axhline(error_rate, color="#808080", linestyle=":", label="no information")
    axes.set_xlim(0, 1)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("Coverage: share of pixels kept, the surest first")
    axes.set_ylabel("Risk: share of them that is wrong")
    axes.grid(alpha=0.3)
    axes.legend()
    if title is not None:
        axes.set_title(title)
    return figure
