# SPDX-License-Identifier: Apache-2.0
"""Putting new weights into service without losing the former ones."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from ..data.atomic_write import atomic_write
from ..data.split_file import Datalist, image_hashes, write_split_file
from ..exceptions import CheckpointError

__all__ = ["publish_weights"]


def publish_weights(
    weights: str | os.PathLike[str], served: str | os.PathLike[str], parts: Mapping[str, Datalist]
) -> Path:
    """Replace the weights that a bundle serves by those of a training that went on from them.

    With the weights go the settings beside them (``.json`` of the same name) and ``split.json`` in their folder, which
    from then on lists the former training images and the new ones, so that no evaluation takes either for unseen. The
    former files stay beside the new ones, each with the first 12 digits of the SHA-256 of the former weights in its
    name: ``model-0123456789ab.pt``. The weights are replaced last and atomically: killed at any moment, whole weights
    are served, and none are lost.

    Args:
        weights: the new weights.
        served: the weights to replace.
        parts: ``{"training": [...], "validation": [...]}`` of ``{"name", "image", "label"}``: what the new weights were
            trained and validated on besides the former training images.

    Returns:
        Where the former weights are now.

    Raises:
        CheckpointError: one of the files of weights does not exist.
        DatasetError: ``split.json`` cannot be written.

    Example:
        >>> publish_weights("runs/round_2/model.pt", "models/model.pt", parts)  # doctest: +SKIP
        PosixPath('models/model-0123456789ab.pt')
    """
    weights, served = Path(weights), Path(served)
    for path in (weights, served):
        if not path.is_file():
            raise CheckpointError(f"Checkpoint {path} does not exist.")
    split_file = served.with_name("split.json")
    digest = hashlib.sha256(served.read_bytes()).hexdigest()[:12]
    for path in (served, served.with_suffix(".json"), split_file):
        if path.is_file():
            _copy(path, path.with_name(f"{path.stem}-{digest}{path.suffix}"))
    write_split_file(split_file, _extended(split_file, parts))
    if weights.with_suffix(".json").is_file():
        _copy(weights.with_suffix(".json"), served.with_suffix(".json"))
    _copy(weights, served)
    return served.with_name(f"{served.stem}-{digest}{served.suffix}")


def _copy(source: Path, target: Path) -> None:
    with atomic_write(target) as temporary:
        shutil.copyfile(source, temporary)


def _extended(split_file: Path, parts: Mapping[str, Datalist]) -> dict[str, list]:
    """The content of a split file with more training images, each listed once."""
    former = json.loads(split_file.read_text(encoding="utf-8")) if split_file.is_file() else {"training_sha256": []}
    entries, digests = list(former.get("training", [])), former.get("training_sha256")
    content = {"training": entries, "validation": list(parts["validation"])}
    if digests is None:  # written by hand: its images are known by their names, and so must the new ones be
        entries += parts["training"]
        return content
    new = zip(parts["training"], image_hashes(parts["training"]), strict=True)
    added = {digest: entry for entry, digest in new if digest not in digests}
    entries += added.values()
    return {**content, "training_sha256": [*digests, *added]}
