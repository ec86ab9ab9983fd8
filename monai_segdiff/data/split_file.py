# SPDX-License-Identifier: Apache-2.0
"""What the parts of a dataset have in common: images known by their content, and a file that records them."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..exceptions import DatasetError
from .atomic_write import atomic_write
from .monuseg import name_some

__all__ = ["image_hashes", "refuse_shared_images", "write_split_file"]

Datalist = list[dict[str, str]]


def image_hashes(entries: Datalist) -> list[str]:
    """Give the SHA-256 of each image file."""
    return [hashlib.sha256(Path(entry["image"]).read_bytes()).hexdigest() for entry in entries]


def refuse_shared_images(parts: Mapping[str, Datalist], source: str) -> None:
    """Check that no image, known by its content, is in two parts.

    Args:
        parts: entries with ``name`` and ``image``.
        source: where they are from, for the message.

    Raises:
        DatasetError: when one is.
    """
    hashed = {part: dict(zip(image_hashes(entries), entries, strict=True)) for part, entries in parts.items()}
    for one, other in itertools.combinations(hashed, 2):
        shared = sorted(hashed[other][digest]["name"] for digest in hashed[one].keys() & hashed[other].keys())
        if shared:
            raise DatasetError(
                f"{source}: the same image is in both parts: {name_some(shared)} of '{other}' (and in '{one}'); "
                "expected it once."
            )


def write_split_file(path: Path, content: Mapping[str, Any]) -> None:
    """Write a split file, as JSON, whole or not at all.

    Raises:
        DatasetError: when it cannot be written.
    """
    try:
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise DatasetError(f"{path}: the split file cannot be written ({error}); expected a writable path.") from error
