# SPDX-License-Identifier: Apache-2.0
"""Results of trainings as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

from monai_segdiff import bootstrap_interval

from .image_scores import SCORES
from .score_table import MEASURES, SCORE_HEADER, flat_scores, score_cells
from .table import format_table

__all__ = ["flat_rows", "format_training_sweep", "seed_mean"]

HEADER = ("arm", "steps x gen.", "parameters", "image encoder", "minutes", "best epoch", "Dice of seeds")
OF_TRAINING = ("seed", "training_seconds", "best_epoch", "best_validation_dice")


def seed_mean(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Merge the scores of trainings that differ in their seed.

    Args:
        rows: of :func:`~benchmarks.few_steps.score_weights`, with ``seed``, ``training_seconds``, ``best_epoch`` and
            ``best_validation_dice``; all for the same images, steps and generations.

    Returns:
        The same scores, of each image the mean over seeds, with intervals over images; the other measures as means over
        seeds; ``training_seconds`` alike; and ``seeds``, each training's own.
    """
    images = [
        {"name": same[0]["name"], **{score: _mean([image[score] for image in same]) for score in SCORES}}
        for same in zip(*(row["images"] for row in rows), strict=True)
    ]
    merged: dict[str, Any] = {name: rows[0][name] for name in ("prediction_type", "steps", "generations")}
    merged["training_seconds"] = _mean([row["training_seconds"] for row in rows])
    for score in SCORES:
        values = [image[score] for image in images]
        merged[score] = {"value": _mean(values), "interval": bootstrap_interval(values)}
    merged |= {name: _mean([row[name] for row in rows]) for name in MEASURES}
    seeds = [
        {**{name: row[name] for name in OF_TRAINING}, **{score: row[score]["value"] for score in SCORES}}
        for row in rows
    ]
    return {**merged, "images": images, "seeds": seeds}


def flat_rows(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return one level of numbers for a spreadsheet, with the difference from the first arm over the same images.

    Args:
        rows: of :func:`~benchmarks.training_sweep.training_sweep`.
    """
    # The rows of the first arm: one for each setting, as the other arms have.
    firsts = [row for row in rows if row["arm"] == rows[0]["arm"]]
    flat = []
    for row, first in zip(rows, cycle(firsts), strict=False):
        names = ("arm", "value", "prediction_type", "steps", "generations", "parameters", "image_parameters")
        line = {name: row[name] for name in (*names, "training_seconds")}
        line["best_epochs"] = " ".join(str(seed["best_epoch"]) for seed in row["seeds"])
        dice = [seed["dice"] for seed in row["seeds"]]
        line |= {"seeds": len(dice), "dice_seed_min": min(dice), "dice_seed_max": max(dice)}
        flat.append({**line, **flat_scores(row, first)})
    return flat


def format_training_sweep(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the rows as a table for the terminal."""
    lines = [[*HEADER, *SCORE_HEADER]]
    for line in flat_rows(rows):
        cells = [line["arm"], f"{line['steps']} x {line['generations']}", f"{line['parameters']:,}"]
        cells += [f"{line['image_parameters']:,}", f"{line['training_seconds'] / 60:.1f}", line["best_epochs"]]
        cells += ["-" if line["seeds"] == 1 else f"{line['dice_seed_min']:.4f}..{line['dice_seed_max']:.4f}"]
        lines.append([*cells, *score_cells(line)])
    return format_table(lines, left=2)


def _mean(values: Sequence[Any]) -> Any:
    return None if None in values else sum(values) / len(values)
