# SPDX-License-Identifier: Apache-2.0
"""Images without labels, for inference."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ..exceptions import DatasetError
from .monuseg import IMAGE_FOLDERS, IMAGE_SUFFIXES, absolute, by_stem, find_subfolder, list_files

__all__ = ["image_datalist", "list_images"]


def image_datalist(images: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[dict[str, str]]:
    """List the images to segment.

    Args:
        images: a folder (or one that has ``Tissue Images`` or ``images`` inside), one image file, a ``.txt`` file with
            one path a line (relative to that file; empty lines are skipped), or a list of image files.

    Returns:
        One dictionary per image: ``name`` (file name without suffix) and ``image`` (absolute path). Sorted by name for
        a folder, otherwise in the order given. No image has been opened.

    Raises:
        DatasetError: when something is missing, empty or not an image by its suffix, or when two images have the same
            name, whose outputs would overwrite each other.

    Example:
        >>> image_datalist("images")  # doctest: +SKIP
        [{'name': 'a', 'image': '/data/images/a.tif'}, {'name': 'b', 'image': '/data/images/b.png'}]
    """
    return list_images(images, IMAGE_SUFFIXES, IMAGE_FOLDERS)


def list_images(
    images: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    suffixes: tuple[str, ...],
    folders: tuple[str, ...],
) -> list[dict[str, str]]:
    """Do what :func:`image_datalist` does, for files of any kind.

    Args:
        images: as for :func:`image_datalist`.
        suffixes: how the names of the files may end, in lower case; each starts with a dot.
        folders: names, in lower case, of folders to look for inside a folder; the first that exists is taken.
    """
    if not isinstance(images, (str, os.PathLike)):
        return _entries([absolute(path) for path in images], "the list of images", suffixes)
    path = absolute(images)
    if path.is_dir():
        folder = find_subfolder(path, folders) or path
        found = list_files(folder, suffixes)
        if not found:
            raise DatasetError(f"{folder}: holds no image; expected files with {', '.join(suffixes)}.")
        return sorted(_entries(found, str(folder), suffixes), key=lambda entry: entry["name"])
    if not path.exists():
        raise DatasetError(f"{path}: does not exist; expected a folder of images, an image file or a .txt list.")
    if path.suffix.lower() == ".txt":
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DatasetError(f"{path}: cannot be read as UTF-8 text ({error}); expected one path a line.") from error
        listed = [os.path.expanduser(line.strip()) for line in lines if line.strip()]
        return _entries([absolute(path.parent / line) for line in listed], str(path), suffixes)
    return _entries([path], str(path), suffixes)


def _entries(paths: list[Path], source: str, suffixes: tuple[str, ...]) -> list[dict[str, str]]:
    if not paths:
        raise DatasetError(f"{source}: names no image; expected at least one.")
    for path in paths:
        if not path.is_file():
            problem = "is a folder" if path.is_dir() else "does not exist"
            raise DatasetError(f"{source}: the image {path} {problem}; expected an image file.")
        if not path.name.lower().endswith(suffixes):
            raise DatasetError(f"{source}: {path} is not an image; expected {', '.join(suffixes)}.")
    return [{"name": name, "image": str(path)} for name, path in by_stem(paths).items()]
