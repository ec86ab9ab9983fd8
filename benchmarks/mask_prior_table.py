# SPDX-License-Identifier: Apache-2.0
"""What a mask prior gains, as tables for a spreadsheet and for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from monai_segdiff import paired_bootstrap

from .mask_prior_arm import BASE, DDPS, HEAD
from .table import format_interval, format_table

__all__ = ["COMPARED", "flat_mask_prior", "format_mask_prior"]

# Scores that are compared image by image, and with which arms.
COMPARED = {"dice": "Dice", "surface_dice": "surface Dice"}
REFERENCES = {"base": BASE, "head": HEAD, "ddps": DDPS}
CALIBRATION = "expected_calibration_error"
TITLES = {
    **{"dice": "Dice", "iou": "IoU", "surface_dice": "surface Dice", "hd95": "HD95", "boundary_iou": "boundary IoU"},
    f"pooled_{CALIBRATION}": "ECE, pooled",
}


def flat_mask_prior(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return one level of numbers for each arm.

    Args:
        rows: ``arm``, what else names it, ``seconds`` for an image, and of the bundle's report of the arm ``mean``,
            ``pooled`` and ``images``; all over the same images, that of the base among them.

    Returns:
        What names the arm; each mean score and the pooled calibration, with ``_low`` and ``_high`` ends of their 95 %
        intervals over images; ``dice_minus_base`` and its like alike, over the images that define the score in both
        arms (None of an arm and itself, or if there is no such image); ``seconds`` and their ``ratio`` to the base's.

    Raises:
        ValueError: arms have different images.
    """
    by_name = {row["arm"]: row for row in rows}
    flat = []
    for row in rows:
        line = {name: value for name, value in row.items() if name not in ("mean", "pooled", "images", "seconds")}
        line["images"] = len(row["images"])
        found = {**row["mean"], f"pooled_{CALIBRATION}": row["pooled"][CALIBRATION]}
        for score, result in found.items():
            line |= _with_interval(score, result["value"], result["interval"])
        for short, name in REFERENCES.items():
            for score in [score for score in COMPARED if score in row["mean"] and name in by_name]:
                line |= _difference(f"{score}_minus_{short}", score, row, by_name[name])
        flat.append({**line, "seconds": row["seconds"], "ratio": row["seconds"] / by_name[BASE]["seconds"]})
    return flat


def _difference(name: str, score: str, row: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    if [image["name"] for image in row["images"]] != [image["name"] for image in other["images"]]:
        raise ValueError(f"{row['arm']} and {other['arm']} have different images, expected the same.")
    pairs = [(a[score], b[score]) for a, b in zip(row["images"], other["images"], strict=True)]
    pairs = [pair for pair in pairs if None not in pair]
    if row is other or not pairs:
        return _with_interval(name, None, None)
    compared = paired_bootstrap([own for own, _ in pairs], [others for _, others in pairs])
    return _with_interval(name, compared.difference, compared.interval)


def _with_interval(name: str, value: float | None, interval: Sequence[float] | None) -> dict[str, Any]:
    low, high = interval or (None, None)
    return {name: value, f"{name}_low": low, f"{name}_high": high}


def format_mask_prior(flat: Sequence[Mapping[str, Any]]) -> str:
    """Return two tables for the terminal: scores, and differences with times.

    Args:
        flat: of :func:`flat_mask_prior`.
    """
    titles = {name: title for name, title in TITLES.items() if name in flat[0]}
    differences = {
        f"{score}_minus_{short}": f"{title} - {short}"
        for short in REFERENCES
        for score, title in COMPARED.items()
        if f"{score}_minus_{short}" in flat[0]
    }
    scores = [["arm", *titles.values()]]
    changes = [["arm", *differences.values(), "seconds", "ratio"]]
    for line in flat:
        scores.append([line["arm"], *(_cell(line, name) for name in titles)])
        times = [f"{line['seconds']:.3f}", f"{line['ratio']:.2f}"]
        changes.append([line["arm"], *(_cell(line, name, "+") for name in differences), *times])
    return f"{format_table(scores)}\n\n{format_table(changes)}"


def _cell(line: Mapping[str, Any], name: str, sign: str = "") -> str:
    if line[name] is None:
        return "-"
    return f"{line[name]:{sign}.4f} ({format_interval(line[f'{name}_low'], line[f'{name}_high'], sign)})"
