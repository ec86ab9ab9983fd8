# SPDX-License-Identifier: Apache-2.0
"""What the parts of a dataset have in common: images known by their content, and a file that records them."""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..exceptions import DatasetError
from .atomic_write import atomic_write
from .monuseg import absolute, name_some

__all__ = ["image_hashes", "read_split_file", "recorded_split", "refuse_shared_images", "write_split_file"]

logger = logging.getLogger(__name__)

Datalist = list[dict[str, str]]
PARTS = ("training", "validation")


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


def read_split_file(path: Path) -> dict[str, Datalist]:
    """Read the training and validation parts from a split file; paths in it may be relative to it.

    Raises:
        DatasetError: when it cannot be read or lacks a part.
    """
    expected = 'expected JSON {"training": [{"name", "image", "label"}, ...], "validation": [...]}'
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: this split file cannot be read ({error}); {expected}.") from error
    parts: dict[str, Datalist] = {}
    for part in PARTS:
        entries = content.get(part) if isinstance(content, dict) else None
        if not isinstance(entries, list) or not entries:
            raise DatasetError(f"{path}: this split file has no '{part}' list, or an empty one; {expected}.")
        parts[part] = []
        for i, entry in enumerate(entries):
            values = [entry.get(key) if isinstance(entry, dict) else None for key in ("name", "image", "label")]
            if not all(isinstance(value, str) and value for value in values):
                raise DatasetError(f"{path}: entry {i} of '{part}' is {str(entry)[:200]}; {expected}.")
            name, image, label = map(str, values)
            files = {"image": str(absolute(path.parent / image)), "label": str(absolute(path.parent / label))}
            parts[part].append({"name": name, **files})
    return parts


def recorded_split(
    divide: Callable[[], dict[str, Datalist]],
    folders: Sequence[str | os.PathLike[str]],
    split_file: str | os.PathLike[str] | None,
) -> dict[str, Datalist]:
    """Divide a dataset into training and validation once, and from then on as a split file recorded it.

    Args:
        divide: gives the parts; not called if the split file exists.
        folders: where ``divide`` looks.
        split_file: JSON file; written with the SHA-256 of the training images where it does not exist.

    Returns:
        ``{"training": [...], "validation": [...]}``.

    Raises:
        DatasetError: when a part names an image twice, when an image is in both parts, or when the split file is
            unusable.
    """
    path = None if split_file is None else absolute(split_file)
    if path is not None and path.exists():
        parts = read_split_file(path)
        _check_parts(parts, str(path))
        _check_files(parts, path)
        _warn_about_other_data(parts, path, folders)
        return parts
    parts, source = divide(), " and ".join(str(absolute(folder)) for folder in folders)
    _check_parts(parts, source)
    refuse_shared_images(parts, source)
    if path is not None:
        write_split_file(path, {**parts, "training_sha256": image_hashes(parts["training"])})
    return parts


def _check_parts(parts: dict[str, Datalist], source: str) -> None:
    for part in PARTS:
        names = [entry["name"] for entry in parts[part]]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise DatasetError(f"{source}: the name '{twice[0]}' is twice in '{part}'; expected it once.")
    images = [{entry["image"] for entry in parts[part]} for part in PARTS]
    for image in sorted(images[0] & images[1]):
        raise DatasetError(f"{source}: the image '{image}' is in both parts; expected it once.")


def _check_files(parts: dict[str, Datalist], path: Path) -> None:
    files = [entry[key] for part in PARTS for entry in parts[part] for key in ("image", "label")]
    missing = [file for file in files if not os.path.isfile(file)]
    if missing:
        raise DatasetError(
            f"{path}: {len(missing)} of the files named in this split file do not exist: {name_some(missing)}; "
            "correct the paths, or remove the split file to have it written anew."
        )


def _warn_about_other_data(parts: dict[str, Datalist], path: Path, folders: Sequence[str | os.PathLike[str]]) -> None:
    """Say so when a split file of other data is used, since the folders given beside it then have no effect."""
    roots = {absolute(folder) for folder in folders}
    outside = [e["image"] for part in PARTS for e in parts[part] if not roots & set(Path(e["image"]).parents)]
    if outside:
        logger.warning("%s: %d images lie outside the dataset folders given: %s.", path, len(outside), outside[0])
