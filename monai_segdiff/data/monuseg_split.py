# SPDX-License-Identifier: Apache-2.0
"""Reproducible training and validation parts, kept apart by patient."""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path

from ..exceptions import DatasetError
from .monuseg import absolute, monuseg_datalist, name_some
from .split_file import PARTS, Datalist, recorded_split

__all__ = ["monuseg_split"]

logger = logging.getLogger(__name__)


def monuseg_split(
    dataset_dir: str | os.PathLike[str],
    val_dataset_dir: str | os.PathLike[str] | None = None,
    val_fraction: float = 0.2,
    split_file: str | os.PathLike[str] | None = None,
) -> dict[str, Datalist]:
    """Divide a dataset into training and validation.

    With ``val_dataset_dir`` all of ``dataset_dir`` trains and all of ``val_dataset_dir`` validates. Otherwise whole
    patients (the first three fields of a TCGA name, or else the name) are ordered by the SHA-256 of their id, and the
    first ones validate until they hold ``round(val_fraction * n)`` images, at least one. The rule has no seed: the
    same files always give the same parts.

    Args:
        dataset_dir: a folder that :func:`~monai_segdiff.data.monuseg.monuseg_datalist` knows.
        val_dataset_dir: another such folder, for validation.
        val_fraction: share of the images that validate, between 0 and 1 (neither included).
        split_file: JSON file. If it exists, it is used and nothing else is looked at; if not, the parts are written
            to it: ``{"training": [{"name", "image", "label"}, ...], "validation": [...]}``, absolute paths, with the
            SHA-256 of the training images. Paths in a file written by hand may be relative to it.

    Returns:
        ``{"training": [...], "validation": [...]}`` of ``{"name", "image", "label"}`` dictionaries.

    Raises:
        DatasetError: when a folder or the split file is unusable, when no image would remain for training, or when an
            image is in both parts.

    Example:
        >>> parts = monuseg_split("MoNuSeg 2018 Training Data", split_file="out/split.json")  # doctest: +SKIP
        >>> len(parts["training"]), len(parts["validation"])  # doctest: +SKIP
        (24, 6)
    """

    def divide() -> dict[str, Datalist]:
        everything = monuseg_datalist(dataset_dir)
        if val_dataset_dir is None:
            return _divide(everything, val_fraction, absolute(dataset_dir))
        return {"training": everything, "validation": monuseg_datalist(val_dataset_dir)}

    folders = [dataset_dir] if val_dataset_dir is None else [dataset_dir, val_dataset_dir]
    parts = recorded_split(divide, folders, split_file)
    patients = [{_patient(entry["name"]) for entry in parts[part]} for part in PARTS]
    shared = sorted(patients[0] & patients[1])
    if shared:
        source = absolute(dataset_dir if split_file is None else split_file)
        logger.warning("%s: patients in both training and validation: %s.", source, name_some(shared))
    return parts


def _patient(name: str) -> str:
    fields = name.split("-")
    return "-".join(fields[:3]) if fields[0].upper() == "TCGA" and len(fields) >= 3 else name


def _divide(everything: Datalist, val_fraction: float, folder: Path) -> dict[str, Datalist]:
    if not 0 < val_fraction < 1:
        raise DatasetError(f"{folder}: val_fraction is {val_fraction}; expected a number between 0 and 1.")
    groups: dict[str, Datalist] = {}
    for entry in everything:
        groups.setdefault(_patient(entry["name"]), []).append(entry)
    wanted = max(1, round(val_fraction * len(everything)))
    validation: Datalist = []
    for patient in sorted(groups, key=lambda p: hashlib.sha256(p.encode("utf-8")).hexdigest()):
        if len(validation) >= wanted:
            break
        validation += groups[patient]
    held = {entry["name"] for entry in validation}
    training = [entry for entry in everything if entry["name"] not in held]
    if not training:
        raise DatasetError(
            f"{folder}: {len(everything)} images of {len(groups)} patients with val_fraction={val_fraction} leave no "
            "image for training; expected more patients, a smaller val_fraction, or val_dataset_dir."
        )
    return {"training": training, "validation": sorted(validation, key=lambda entry: entry["name"])}
