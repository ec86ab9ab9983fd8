# SPDX-License-Identifier: Apache-2.0
"""Choice of the images that judge a round of training."""

from __future__ import annotations

import json
from pathlib import Path

from monai_segdiff.data.split_file import Datalist, image_hashes
from monai_segdiff.exceptions import DatasetError

__all__ = ["hold_back"]


def hold_back(entries: Datalist, share: float, split_file: Path) -> dict[str, Datalist]:
    """Divide labelled images into those that train and those that judge.

    Images are known by the SHA-256 of their content. One that the served weights were trained on never judges, since
    it would favour them; of the others, those with the smallest SHA-256 do. As images are added, one that has judged
    may train later, never the reverse. Copies of one image are on the same side.

    Args:
        entries: ``{"name", "image", "label"}`` of the labelled images.
        share: of the different images to hold back, between 0 and 1. At least one judges and at least one trains;
            fewer judge where too few are new to the served weights.
        split_file: lists under ``"training"`` what the served weights were trained on; need not exist. Without
            ``"training_sha256"`` its images are known by their names.

    Returns:
        ``{"training": [...], "validation": [...]}``, each in the order of ``entries``.

    Raises:
        DatasetError: fewer than two different images, or none that is new to the served weights.
        ValueError: ``share`` is not between 0 and 1.
    """
    if not 0 < share < 1:
        raise ValueError(f"val_split is {share}, expected a number between 0 and 1: the held-back images judge.")
    digests = image_hashes(entries)
    total = len(set(digests))
    if total < 2:
        raise DatasetError(
            f"{total} different images have a final label; expected at least 2, one to train and one to validate."
        )
    recorded = json.loads(split_file.read_text(encoding="utf-8")) if split_file.is_file() else {}
    trained = recorded.get("training_sha256")
    if trained is None:
        names = {entry["name"] for entry in recorded.get("training", [])}
        trained = [digest for entry, digest in zip(entries, digests, strict=True) if entry["name"] in names]
    unseen = sorted(set(digests) - set(trained))
    if not unseen:
        raise DatasetError(
            f"All {total} images with a final label are in the training part of {split_file}; expected at least one "
            "that the served weights were not trained on, to validate."
        )
    held = unseen[: min(max(1, round(share * total)), total - 1)]
    parts: dict[str, Datalist] = {"training": [], "validation": []}
    for entry, digest in zip(entries, digests, strict=True):
        parts["validation" if digest in held else "training"].append(entry)
    return parts
