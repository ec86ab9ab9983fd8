# SPDX-License-Identifier: Apache-2.0
"""Volumes and labels as the Medical Segmentation Decathlon lays them out, and their fixed division."""

from __future__ import annotations

import os
from pathlib import Path

from ..exceptions import DatasetError
from .monuseg import absolute, by_stem, list_files, name_some
from .split_file import Datalist, recorded_split
from .volume_datalist import VOLUME_SUFFIXES

__all__ = ["decathlon_datalist", "decathlon_split"]

EXPECTED = "expected 'imagesTr' and 'labelsTr' with NIfTI files (.nii or .nii.gz) of equal names"


def decathlon_datalist(dataset_dir: str | os.PathLike[str]) -> Datalist:
    """List the labelled volumes of a task of the Medical Segmentation Decathlon (https://arxiv.org/abs/2106.05735).

    The files in ``imagesTr`` and ``labelsTr`` are paired by their names; ``dataset.json`` is not needed and not read.
    Hidden files are left out, among them the ``._*`` files that the published archives hold.

    Args:
        dataset_dir: the folder of the task, such as ``Task04_Hippocampus``.

    Returns:
        One dictionary per volume, sorted by name: ``name`` (file name without ``.nii`` or ``.nii.gz``), ``image`` and
        ``label`` (absolute paths). No file has been opened.

    Raises:
        DatasetError: when a folder is missing or empty, when an image has no label or a label no image, or when a
            name is there twice.

    Example:
        >>> decathlon_datalist("Task04_Hippocampus")[0]["name"]  # doctest: +SKIP
        'hippocampus_001'
    """
    root = absolute(dataset_dir)
    images, labels = _volumes(root / "imagesTr"), _volumes(root / "labelsTr")
    for found, others in ((images, labels), (labels, images)):
        alone = [str(path) for name, path in found.items() if name not in others]
        if alone:
            raise DatasetError(
                f"{root}: {len(alone)} files have no partner in the other folder: {name_some(alone)}; {EXPECTED}."
            )
    return [{"name": name, "image": str(images[name]), "label": str(labels[name])} for name in sorted(images)]


def decathlon_split(
    dataset_dir: str | os.PathLike[str],
    num_folds: int = 5,
    split_file: str | os.PathLike[str] | None = None,
) -> dict[str, Datalist]:
    """Divide a task of the Medical Segmentation Decathlon into training and validation.

    Of the names in lexicographic order the first and then every ``num_folds``-th validate, the others train. The rule
    has no seed: the same files always give the same parts.

    Args:
        dataset_dir: a folder that :func:`decathlon_datalist` knows.
        num_folds: one in how many volumes validates, at least 2.
        split_file: JSON file. If it exists, it is used and nothing else is looked at; if not, the parts are written
            to it, with the SHA-256 of the training images; see
            :func:`~monai_segdiff.data.monuseg_split.monuseg_split`.

    Returns:
        ``{"training": [...], "validation": [...]}`` of ``{"name", "image", "label"}`` dictionaries.

    Raises:
        DatasetError: when the folder or the split file is unusable, when a part would be empty, or when an image is in
            both parts.

    Example:
        >>> parts = decathlon_split("Task04_Hippocampus", split_file="out/split.json")  # doctest: +SKIP
        >>> len(parts["training"]), len(parts["validation"])  # doctest: +SKIP
        (208, 52)
    """

    def divide() -> dict[str, Datalist]:
        everything = decathlon_datalist(dataset_dir)
        if num_folds < 2 or len(everything) < 2:
            raise DatasetError(
                f"{absolute(dataset_dir)}: {len(everything)} volumes with num_folds={num_folds}; expected at least 2 "
                "volumes and num_folds from 2, so that some train and some validate."
            )
        training = [entry for i, entry in enumerate(everything) if i % num_folds]
        return {"training": training, "validation": everything[::num_folds]}

    return recorded_split(divide, [dataset_dir], split_file)


def _volumes(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise DatasetError(f"{folder}: this folder does not exist; {EXPECTED}.")
    found = by_stem(list_files(folder, VOLUME_SUFFIXES))
    if not found:
        raise DatasetError(f"{folder}: holds no volume; {EXPECTED}.")
    return found
