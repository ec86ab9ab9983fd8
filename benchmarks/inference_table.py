# SPDX-License-Identifier: Apache-2.0
"""The comparison of procedures, for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .table import format_table

__all__ = ["format_inference", "with_ratios"]

MIB = 2**20


def with_ratios(rows: Sequence[Mapping[str, Any]], peak_rate: float) -> list[dict[str, Any]]:
    """Add how many times less each row costs than the first, and the share of the device's peak that it reaches.

    Args:
        rows: of :func:`~benchmarks.inference.compare_inference`.
        peak_rate: multiply-accumulates a second of the device.
    """
    added = []
    for row in rows:
        first, full = rows[0]["full_image"], row["full_image"]
        ratios = {
            "macs": first["macs"] / full["macs"],
            "seconds": first["seconds"] / full["seconds"],
            "peak_memory": rows[0]["peak_memory"] / row["peak_memory"] if row["peak_memory"] else None,
        }
        share = full["macs"] / full["seconds"] / peak_rate
        added.append({**row, "times_less_than_first": ratios, "share_of_peak_rate": share})
    return added


def format_inference(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the table; ``~`` marks times that were scaled, ``-`` what was not measured.

    Args:
        rows: of :func:`with_ratios`.
    """
    size = " x ".join(map(str, rows[0]["full_image"]["size"]))
    head = ["procedure", "Dice", "IoU", "other pixels", "window", "encoder", "denoiser", "TMAC", "time", "times faster"]
    lines = [[*head, "peak memory", "of peak rate"]]
    for row in rows:
        full, ratios = row["full_image"], row["times_less_than_first"]
        changed = row["changed_pixels"]
        lines.append(
            [
                row["name"],
                *("-" if row[name] is None else f"{row[name]['value']:.4f}" for name in ("dice", "iou")),
                "-" if changed is None else f"{100 * changed:.2f} %",
                str(row["window"]),
                f"{full['encoder_passes']:g}",
                f"{full['denoiser_passes']:g}",
                f"{full['macs'] / 1e12:.3f}",
                f"{'~' if full['seconds_are_scaled'] else ''}{format_seconds(full['seconds'])}",
                f"{'~' if full['seconds_are_scaled'] else ''}{ratios['seconds']:.1f}",
                f"{row['peak_memory'] / MIB:.0f} MiB",
                f"{100 * row['share_of_peak_rate']:.0f} %",
            ]
        )
    note = f"Passes, TMAC, time: one image of {size}; ~ scaled from fewer passes. Memory: beyond weights and images."
    return f"{format_table(lines)}\n{note}"


def format_seconds(seconds: float) -> str:
    """Return a time with three digits and a fitting unit."""
    for unit, length in (("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"
