# SPDX-License-Identifier: Apache-2.0
"""Folders of generated files that are either whole or not there."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..exceptions import DatasetError
from .monuseg import absolute, name_some

__all__ = ["prepare_folder"]


def prepare_folder(
    folder: str | os.PathLike[str],
    marker: str,
    settings: Mapping[str, Any],
    write: Callable[[Path], Mapping[str, Any]],
) -> Path:
    """Fill a folder once, as a whole.

    The files are written to a hidden folder beside it, last among them the marker
    ``{"settings": settings, **what write returned}``, and the folder is then moved to its place. A folder that has a
    marker with the same settings is left as it is; any other content is the user's and is never replaced.

    Args:
        folder: folder to fill; it may be missing or empty.
        marker: file name of the marker.
        settings: JSON values on which the content depends.
        write: writes the files into the folder it gets, and returns what else belongs into the marker.

    Returns:
        The absolute path of ``folder``.

    Raises:
        DatasetError: the folder was filled with other settings, holds something else, or cannot be written.

    Example:
        >>> prepare_folder("numbers", "numbers.json", {"seed": 0}, write_numbers)  # doctest: +SKIP
        PosixPath('/home/me/numbers')
    """
    root = absolute(folder)
    if (root / marker).is_file():
        _compare(root / marker, json.loads(json.dumps(settings)))
        return root
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        found = name_some(sorted(path.name for path in root.iterdir())) if root.is_dir() else "a file"
        raise DatasetError(f"{root}: found {found}, but no {marker}; expected a new or empty folder.")
    temporary = root.with_name(f".{root.name}-{uuid.uuid4().hex}")
    try:
        temporary.mkdir(parents=True)
        content = {"settings": settings, **write(temporary)}
        (temporary / marker).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        if root.exists():
            root.rmdir()
        temporary.rename(root)
    except OSError as error:
        raise DatasetError(f"{root}: cannot be written ({error}); expected a writable folder.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return root


def _compare(path: Path, expected: dict[str, Any]) -> None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["settings"]
        differing = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DatasetError(
            f"{path}: cannot be read ({type(error).__name__}: {error}); expected the settings of {path.parent}. "
            "Remove that folder to have it written anew."
        ) from error
    if differing:
        name = differing[0]
        raise DatasetError(
            f"{path}: was written with {name}={found.get(name)!r}, expected {expected.get(name)!r}; differing "
            f"settings: {differing}. Give another folder, or remove this one to have it written anew."
        )
