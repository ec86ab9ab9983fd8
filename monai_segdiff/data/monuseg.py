# SPDX-License-Identifier: Apache-2.0
"""Image and annotation pairs from the folder layouts in which MoNuSeg is found on disk."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from pathlib import Path

from ..exceptions import DatasetError

__all__ = ["monuseg_datalist"]

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg")
MASK_SUFFIXES = (".png", ".tif", ".tiff")
IMAGE_FOLDERS = ("tissue images", "tissue_images", "images")
# annotations/ stands last: where others exist, it may hold only some of the images
LABEL_FOLDERS = ("labels", "masks", "annotations")
LAYOUTS = (
    "expected 'Tissue Images/*.tif' + 'Annotations/*.xml' (official training set), one flat folder of *.tif + *.xml "
    "(official test set), or 'images/' + 'labels/' or 'masks/' (png or tif masks) or 'annotations/' (xml); "
    "either in this folder or in exactly one folder inside it"
)
MAX_NAMED = 5


def absolute(path: str | os.PathLike[str]) -> Path:
    """Make a path absolute and expand ``~``, without following links (a link's own neighbours are what counts)."""
    return Path(os.path.abspath(os.path.expanduser(os.fspath(path))))


def name_some(names: Iterable[str]) -> str:
    """Join at most five names for a message and say how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - MAX_NAMED} more" if len(listed) > MAX_NAMED else ""
    return ", ".join(listed[:MAX_NAMED]) + more


def require_folder(folder: str | os.PathLike[str], what: str) -> Path:
    """Give the absolute path of a folder.

    Raises:
        DatasetError: when it does not exist or is a file.
    """
    path = absolute(folder)
    if not path.exists():
        raise DatasetError(f"{path}: this {what} does not exist; {LAYOUTS}.")
    if not path.is_dir():
        raise DatasetError(f"{path}: this {what} is a file, not a folder; {LAYOUTS}.")
    return path


def list_files(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """List the files of one folder whose suffix, in any case, is one of ``suffixes``; sorted, hidden files left out.

    Hidden files are left out because macOS writes a ``._picture.tif`` beside each ``picture.tif`` on foreign disks.
    """
    return sorted(
        path
        for path in folder.iterdir()
        if path.name.lower().endswith(suffixes) and not path.name.startswith(".") and path.is_file()
    )


def find_subfolder(folder: Path, names: tuple[str, ...]) -> Path | None:
    """Find the first of ``names`` (lower case) among the subfolders, in any case; None when there is none."""
    by_name = {path.name.lower(): path for path in sorted(folder.iterdir()) if path.is_dir()}
    return next((by_name[name] for name in names if name in by_name), None)


def stem(path: Path) -> str:
    """Give the file name without suffix; ``.nii.gz`` counts as one."""
    return path.name[: -len(".nii.gz")] if path.name.lower().endswith(".nii.gz") else path.stem


def by_stem(paths: list[Path]) -> dict[str, Path]:
    """Key paths by their file name without suffix.

    Raises:
        DatasetError: when two of them have the same stem.
    """
    found: dict[str, Path] = {}
    for path in paths:
        name = stem(path)
        if name in found:
            raise DatasetError(
                f"{found[name]} and {path}: two files of the name '{name}'; expected one file for each name."
            )
        found[name] = path
    return found


def _layout(folder: Path) -> tuple[Path, Path, tuple[str, ...]] | None:
    """Give the image folder, the annotation folder and the annotation suffixes, None when it is no known layout."""
    image_folder = find_subfolder(folder, IMAGE_FOLDERS)
    if image_folder is not None:
        label_folder = find_subfolder(folder, LABEL_FOLDERS)
        return None if label_folder is None else (image_folder, label_folder, (*MASK_SUFFIXES, ".xml"))
    if list_files(folder, IMAGE_SUFFIXES) and list_files(folder, (".xml",)):
        return folder, folder, (".xml",)
    return None


def _find_layout(root: Path) -> tuple[Path, Path, tuple[str, ...]]:
    layout = _layout(root)
    if layout is not None:
        return layout
    entries = sorted(path for path in root.iterdir() if not path.name.startswith("."))
    if not entries:
        raise DatasetError(f"{root}: this dataset folder is empty; {LAYOUTS}.")
    nested = {path: found for path in entries if path.is_dir() and (found := _layout(path)) is not None}
    if len(nested) > 1:
        names = name_some(f"'{path.name}'" for path in nested)
        raise DatasetError(f"{root}: holds {len(nested)} datasets ({names}); expected one, so give that folder itself.")
    if not nested:
        found_here = name_some(f"'{path.name}'" for path in entries)
        raise DatasetError(f"{root}: no known dataset layout, found {found_here}; {LAYOUTS}.")
    return next(iter(nested.values()))


def monuseg_datalist(dataset_dir: str | os.PathLike[str]) -> list[dict[str, str]]:
    """List the image and annotation pairs of one dataset folder.

    These layouts are known, in ``dataset_dir`` itself or in the only folder inside it that has one:

    - ``Tissue Images/*.tif`` with ``Annotations/*.xml`` (official training set; also ``Tissue_Images``);
    - one flat folder of ``*.tif`` and ``*.xml`` (official test set);
    - ``images/`` with the first of ``labels/``, ``masks/`` (png or tif masks) and ``annotations/`` (xml) that exists.

    Folder names and suffixes are compared without case. An annotation without image is logged as a warning.

    Args:
        dataset_dir: the dataset folder.

    Returns:
        One dictionary per image, sorted by name: ``name`` (file name without suffix), ``image`` and ``label``
        (absolute paths). No file has been opened.

    Raises:
        DatasetError: when the folder is missing, empty or of no known layout, when an image has no annotation, or
            when two images or two annotations have the same name.

    Example:
        >>> monuseg_datalist("MoNuSeg 2018 Training Data")[0]["name"]  # doctest: +SKIP
        'TCGA-18-5592-01Z-00-DX1'
    """
    root = require_folder(dataset_dir, "dataset folder")
    image_folder, label_folder, label_suffixes = _find_layout(root)
    images = by_stem(list_files(image_folder, IMAGE_SUFFIXES))
    labels = by_stem(list_files(label_folder, label_suffixes))
    if not images:
        raise DatasetError(f"{image_folder}: holds no image; expected files with {', '.join(IMAGE_SUFFIXES)}.")
    missing = sorted(images.keys() - labels.keys())
    if missing:
        raise DatasetError(
            f"{label_folder}: no annotation for {len(missing)} of {len(images)} images of {image_folder}: "
            f"{name_some(images[name].name for name in missing)}; "
            f"expected a file of the same name with {', '.join(label_suffixes)}."
        )
    unused = sorted(labels.keys() - images.keys())
    if unused:
        logger.warning(
            "%s: %d annotations have no image in %s and are left out: %s.",
            *(label_folder, len(unused), image_folder, name_some(labels[name].name for name in unused)),
        )
    return [{"name": name, "image": str(images[name]), "label": str(labels[name])} for name in sorted(images)]
