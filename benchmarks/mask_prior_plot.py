# SPDX-License-Identifier: Apache-2.0
"""Picture of what a mask prior gains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from monai_segdiff import atomic_write
from monai_segdiff.visualize.colors import LINE_COLORS

from .mask_prior_arm import BASE, WEIGHTS
from .mask_prior_table import COMPARED

__all__ = ["draw_mask_prior"]

LABELS = ("trained with noise on the first prediction", "trained for one step", "trained with noise on the truth")


def draw_mask_prior(path: Path, flat: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw the paired differences from the base, a row for each other arm, one colour for each file of weights.

    Args:
        path: PNG file to write.
        flat: of :func:`~benchmarks.mask_prior_table.flat_mask_prior`.

    Returns:
        The figure.
    """
    lines = [line for line in flat if line["arm"] != BASE]
    scores = {score: title for score, title in COMPARED.items() if f"{score}_minus_base" in flat[0]}
    figure = Figure(figsize=(3 + 4 * len(scores), 2 + 0.35 * len(lines)), dpi=120, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(scores), sharey=True, squeeze=False)[0]
    for axes, (score, title) in zip(panels, scores.items(), strict=True):
        axes.axvline(0, color="#000000", linewidth=1)
        for weights, color, label in zip(WEIGHTS, LINE_COLORS, LABELS, strict=False):
            name = f"{score}_minus_base"
            shown = [(y, line) for y, line in enumerate(lines) if line["weights"] == weights and line[name] is not None]
            if shown:
                axes.plot([line[name] for _, line in shown], [y for y, _ in shown], "o", color=color, label=label)
            for y, line in shown:
                if line[f"{name}_low"] is not None:
                    axes.plot([line[f"{name}_low"], line[f"{name}_high"]], [y, y], color=color, linewidth=2)
        axes.set_xlabel(f"{title}, difference from the base\n(line: 95 % interval over images)")
        axes.grid(axis="x", alpha=0.3)
        axes.locator_params(axis="x", nbins=6)
    panels[0].set_yticks(range(len(lines)), [line["arm"] for line in lines])
    panels[0].invert_yaxis()
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    with atomic_write(path) as temporary:
        canvas.print_png(temporary)
    return figure
