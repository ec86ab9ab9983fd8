# SPDX-License-Identifier: Apache-2.0
"""Reproducible training and validation parts, kept apart by patient."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from pathlib import Path

from ..exceptions import DatasetError
from .monuseg import absolute, monuseg_datalist, name_some
from .split_file import Datalist, image_hashes, refuse_shared_images, write_split_file

__all__ = ["evaluation_datalist", "monuseg_split"]

logger = logging.getLogger(__name__)

PARTS = ("training", "validation")


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
    if split_file is not None and absolute(split_file).exists():
        parts = _read_split(absolute(split_file))
        _check_parts(parts, str(absolute(split_file)))
        _check_files(parts, absolute(split_file))
        _warn_about_other_data(parts, absolute(split_file), [dataset_dir, val_dataset_dir])
        return parts
    everything = monuseg_datalist(dataset_dir)
    if val_dataset_dir is not None:
        parts = {"training": everything, "validation": monuseg_datalist(val_dataset_dir)}
    else:
        parts = _divide(everything, val_fraction, absolute(dataset_dir))
    source = f"{absolute(dataset_dir)} and {absolute(val_dataset_dir or dataset_dir)}"
    _check_parts(parts, source)
    refuse_shared_images(parts, source)
    if split_file is not None:
        write_split_file(absolute(split_file), {**parts, "training_sha256": image_hashes(parts["training"])})
    return parts


def evaluation_datalist(
    dataset_dir: str | os.PathLike[str], training_split: str | os.PathLike[str] | None = None
) -> Datalist:
    """List the pairs of a dataset on which a model was not trained.

    Args:
        dataset_dir: a folder that :func:`~monai_segdiff.data.monuseg.monuseg_datalist` knows.
        training_split: split file of the training, see :func:`monuseg_split`. The images of its ``"training"``
            part are left out, recognised by their content. Without the file nothing is left out, with a warning.

    Returns:
        ``{"name", "image", "label"}`` dictionaries, sorted by name.

    Raises:
        DatasetError: when the folder or an existing split file is unusable, or when no image remains.

    Example:
        >>> len(evaluation_datalist("MoNuSeg 2018 Training Data", "out/split.json"))  # doctest: +SKIP
        6
    """
    everything = monuseg_datalist(dataset_dir)
    if training_split is None or not absolute(training_split).exists():
        logger.warning("%s: the split of the training is not known; some images may be training images.", dataset_dir)
        return everything
    path = absolute(training_split)
    names = {entry["name"] for entry in _read_split(path)["training"]}
    contents = json.loads(path.read_text(encoding="utf-8")).get("training_sha256")
    if contents is None:
        remaining = [entry for entry in everything if entry["name"] not in names]
    else:
        hashed = zip(everything, image_hashes(everything), strict=True)
        remaining = [entry for entry, digest in hashed if digest not in contents]
    left_out = len(everything) - len(remaining)
    logger.info("Left out %d of %d images that are in the training part of %s.", left_out, len(everything), path)
    if not remaining:
        raise DatasetError(
            f"{absolute(dataset_dir)}: all {len(everything)} images are in the training part of {path}; "
            "expected at least one that the model was not trained on."
        )
    return remaining


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


def _read_split(path: Path) -> dict[str, Datalist]:
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


def _check_parts(parts: dict[str, Datalist], source: str) -> None:
    for part in PARTS:
        names = [entry["name"] for entry in parts[part]]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise DatasetError(f"{source}: the name '{twice[0]}' is twice in '{part}'; expected it once.")
    images = [{entry["image"] for entry in parts[part]} for part in PARTS]
    for image in sorted(images[0] & images[1]):
        raise DatasetError(f"{source}: the image '{image}' is in both parts; expected it once.")
    patients = [{_patient(entry["name"]) for entry in parts[part]} for part in PARTS]
    shared = sorted(patients[0] & patients[1])
    if shared:
        logger.warning("%s: patients in both training and validation: %s.", source, name_some(shared))


def _check_files(parts: dict[str, Datalist], path: Path) -> None:
    files = [entry[key] for part in PARTS for entry in parts[part] for key in ("image", "label")]
    missing = [file for file in files if not os.path.isfile(file)]
    if missing:
        raise DatasetError(
            f"{path}: {len(missing)} of the files named in this split file do not exist: {name_some(missing)}; "
            "correct the paths, or remove the split file to have it written anew."
        )


def _warn_about_other_data(
    parts: dict[str, Datalist], path: Path, folders: list[str | os.PathLike[str] | None]
) -> None:
    """Say so when a split file of other data is used, since the folders given beside it then have no effect."""
    roots = [absolute(folder) for folder in folders if folder is not None]
    outside = [e["image"] for part in PARTS for e in parts[part] if not set(roots) & set(Path(e["image"]).parents)]
    if outside:
        logger.warning("%s: %d images lie outside the dataset folders given: %s.", path, len(outside), outside[0])
