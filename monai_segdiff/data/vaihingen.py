# SPDX-License-Identifier: Apache-2.0
"""Training, validation and test part of the Vaihingen buildings."""

from __future__ import annotations

import json
import os
from pathlib import Path

from ..exceptions import DatasetError
from .monuseg import absolute, monuseg_datalist
from .split_file import Datalist, image_hashes, refuse_shared_images, write_split_file

__all__ = ["vaihingen_split"]

SEEN = ("training", "validation")


def vaihingen_split(
    dataset_dir: str | os.PathLike[str],
    num_training: int = 100,
    num_validation: int = 20,
    split_file: str | os.PathLike[str] | None = None,
) -> dict[str, Datalist]:
    """Divide the Vaihingen buildings (168 images, ``building_1`` to ``building_168``) as SegDiff's released code does.

    The first ``num_training`` names in lexicographic order (``building_10`` before ``building_2``) are for training and
    the others are the test part. The released code selects its weights on the test part; here the last
    ``num_validation`` of the names for training validate, and the test part is not looked at.

    Args:
        dataset_dir: a folder with ``images/`` and ``labels/`` (or ``masks/``), equal file names apart from the suffix;
            see :func:`~monai_segdiff.data.monuseg.monuseg_datalist`.
        num_training: number of images for training and validation together; the others test.
        num_validation: how many of them validate, from 1 to ``num_training - 1``.
        split_file: JSON file that records the parts: their entries, and the SHA-256 of the images for training and for
            validation. It is written if it does not exist; if it does, these images must have the same content.

    Returns:
        ``{"training": [...], "validation": [...], "test": [...]}`` of ``{"name", "image", "label"}`` dictionaries.

    Raises:
        DatasetError: when the folder or the split file is unusable, when a part would be empty, when an image is in
            two parts, or when the split file records other images for training or validation.

    Example:
        >>> parts = vaihingen_split("vaihingen", split_file="out/split.json")  # doctest: +SKIP
        >>> [len(entries) for entries in parts.values()]  # doctest: +SKIP
        [80, 20, 68]
    """
    root = absolute(dataset_dir)
    everything = monuseg_datalist(root)
    if num_training >= len(everything):
        raise DatasetError(
            f"{root}: holds {len(everything)} images, of which num_training={num_training} would not be tested; "
            "expected more images than that, or a smaller num_training."
        )
    if not 1 <= num_validation < num_training:
        raise DatasetError(
            f"{root}: num_validation is {num_validation} with num_training={num_training}; expected at least 1, on "
            "which weights are selected, and fewer than num_training."
        )
    first = num_training - num_validation
    parts = {
        "training": everything[:first],
        "validation": everything[first:num_training],
        "test": everything[num_training:],
    }
    refuse_shared_images(parts, str(root))
    if split_file is not None:
        hashes = {f"{part}_sha256": image_hashes(parts[part]) for part in SEEN}
        if absolute(split_file).exists():
            _compare(absolute(split_file), hashes, f"num_training={num_training}, num_validation={num_validation}")
        else:
            write_split_file(absolute(split_file), {**parts, **hashes})
    return parts


def _compare(path: Path, expected: dict[str, list[str]], settings: str) -> None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found = {name: [str(digest) for digest in content[name]] for name in expected}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DatasetError(
            f"{path}: this split file cannot be read ({type(error).__name__}: {error}); expected one that "
            "vaihingen_split wrote."
        ) from error
    for name, digests in expected.items():
        if found[name] != digests:
            part, shared = name.removesuffix("_sha256"), len({*found[name]} & {*digests})
            raise DatasetError(
                f"{path}: records {len(found[name])} images for {part}; found {len(digests)} with {settings}, {shared} "
                "of them the same; expected the images and numbers of that training."
            )
