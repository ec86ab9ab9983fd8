# SPDX-License-Identifier: Apache-2.0
"""Scores as columns of a table: for a spreadsheet and for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from monai_segdiff import bootstrap_interval

from .image_scores import SCORES
from .table import format_interval

__all__ = ["MEASURES", "SCORE_HEADER", "flat_scores", "score_cells"]

SCORE_HEADER = (
    *("Dice", "95 % interval", "change, paired", "IoU", "boundary F"),
    *("ECE", "paper cal.", "Brier", "spread", "pair Dice"),
)
# What has no interval.
MEASURES = (
    *("expected_calibration_error", "paper_calibration_score", "empty_bins", "brier_score"),
    *("spread", "pairwise_dice"),
)


def flat_scores(row: Mapping[str, Any], first: Mapping[str, Any]) -> dict[str, Any]:
    """Return one level of numbers, with the difference from another row over the same images.

    Args:
        row: of :func:`~benchmarks.image_scores.pooled_scores`, or with ``spread`` and ``pairwise_dice`` as well.
        first: the row to compare with, of the same images.

    Returns:
        The scores with ``_low`` and ``_high`` ends of their intervals, ``dice_change`` alike, and what the row has of
        the other measures.
    """
    line: dict[str, Any] = {}
    for score in SCORES:
        low, high = row[score]["interval"] or (None, None)
        line |= {score: row[score]["value"], f"{score}_low": low, f"{score}_high": high}
    change = [image["dice"] - other["dice"] for image, other in zip(row["images"], first["images"], strict=True)]
    low, high = bootstrap_interval(change) or (None, None)
    line |= {"dice_change": sum(change) / len(change), "dice_change_low": low, "dice_change_high": high}
    return {**line, **{name: row[name] for name in MEASURES if name in row}}


def score_cells(line: Mapping[str, Any]) -> list[str]:
    """Return the cells under ``SCORE_HEADER`` for numbers of :func:`flat_scores`."""
    cells = [f"{line['dice']:.4f}", format_interval(line["dice_low"], line["dice_high"])]
    cells += [f"{line['dice_change']:+.4f} ({format_interval(line['dice_change_low'], line['dice_change_high'], '+')})"]
    names = ("iou", "boundary_f", "expected_calibration_error", "paper_calibration_score", "brier_score")
    return cells + ["-" if line[name] is None else f"{line[name]:.4f}" for name in (*names, "spread", "pairwise_dice")]
