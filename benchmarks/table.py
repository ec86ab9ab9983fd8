# SPDX-License-Identifier: Apache-2.0
"""Tables for the terminal and for files."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_segdiff import atomic_write

__all__ = ["format_interval", "format_table", "write_csv", "write_json"]


def format_interval(low: float | None, high: float | None, sign: str = "") -> str:
    """Return ``low..high``, or a dash where there is none; ``sign="+"`` also marks what is positive."""
    return "-" if low is None or high is None else f"{low:{sign}.4f}..{high:{sign}.4f}"


def format_table(lines: Sequence[Sequence[str]], left: int = 1) -> str:
    """Align columns under a ruled header.

    Args:
        lines: cells, the header first.
        left: number of leading columns that are aligned to the left; the others to the right.

    Example:
        >>> print(format_table([["row", "value"], ["a", "1.00"]]))
        row  value
        ----------
        a     1.00
    """
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    printed = []
    for line in lines:
        cells = [
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        printed.append("  ".join(cells).rstrip())
    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    return "\n".join([printed[0], rule, *printed[1:]])


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows with equal keys as a table with a header; None becomes an empty cell."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with atomic_write(path) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON; NaN and infinity are refused."""
    text = json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
