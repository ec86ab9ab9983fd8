# SPDX-License-Identifier: Apache-2.0
"""Results that outlive an interruption."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_segdiff.exceptions import DatasetError

from .table import write_json

__all__ = ["ResultStore"]


class ResultStore:
    """Rows in a JSON file ``{"protocol": {...}, "rows": [...]}``, written anew, as a whole, with every row.

    Args:
        path: the file; continued if it exists.
        protocol: what all rows have in common; JSON values.
        keys: entries of a row that tell it from the others.

    Raises:
        DatasetError: the file exists and cannot be read, or was written under another protocol.
    """

    def __init__(self, path: Path, protocol: Mapping[str, Any], keys: Sequence[str]) -> None:
        self.path = path
        # As it will be read again: tuples become lists, numbers that are keys become strings.
        self.protocol: dict[str, Any] = json.loads(json.dumps(protocol))
        self.keys = tuple(keys)
        self.rows: list[dict[str, Any]] = []
        if path.is_file():
            self._continue()

    def find(self, **key: Any) -> dict[str, Any] | None:
        """Return the row with these entries, None if there is none."""
        return next((row for row in self.rows if all(row[name] == key[name] for name in self.keys)), None)

    def add(self, row: dict[str, Any]) -> None:
        """Add a row, or replace the one with the same keys, and write the file."""
        old = self.find(**{name: row[name] for name in self.keys})
        self.rows = [kept for kept in self.rows if kept is not old] + [row]
        write_json(self.path, {"protocol": self.protocol, "rows": self.rows})

    def _continue(self) -> None:
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            protocol, rows = content["protocol"], list(content["rows"])
            complete = isinstance(protocol, dict) and all(name in row for row in rows for name in self.keys)
        except (ValueError, KeyError, TypeError) as error:
            raise DatasetError(f"{self.path}: these results cannot be read ({error}); remove the file.") from error
        if not complete:
            raise DatasetError(f"{self.path}: these results lack {list(self.keys)}; remove the file.")
        names = sorted(protocol.keys() | self.protocol.keys())
        differing = [name for name in names if protocol.get(name) != self.protocol.get(name)]
        if differing:
            raise DatasetError(
                f"{self.path}: these results were made under another protocol, {differing} differ; expected the same, "
                "so remove the file or give another output folder."
            )
        self.rows = rows
