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
from ..exceptions import CheckpointError, DatasetError

__all__ = ["publish_weights"]


def publish_weights(
    weights: str | os.PathLike[str], served: str | os.PathLike[str], parts: Mapping[str, Datalist]
) -> Path:
    """Replace the weights that a bundle serves by those of a training that went on from them.

    With the weights go the settings beside them (``.json`` of the same name) and ``split.json`` in their folder, which
    from then on lists the former training images and the new ones, so that no evaluation takes either for unseen, and
    as validation images those that are not among them. The former files stay beside the new ones, each with the first
    12 digits of the SHA-256 of the former weights in its name: ``model-0123456789ab.pt``. The weights are replaced last
    and atomically: killed at any moment, whole weights are served, none are lost, and the call may be repeated.

    Args:
        weights: the new weights.
        served: the weights to replace.
        parts: ``{"training": [...], "validation": [...]}`` of ``{"name", "image", "label"}``: what the new weights were
            trained and validated on besides the former training images.

    Returns:
        Where the former weights are now.

    Raises:
        CheckpointError: one of the files of weights does not exist, or their settings differ.
        DatasetError: no validation image is left that is no training image, or ``split.json`` cannot be written.

    Example:
        >>> publish_weights("runs/round_2/model.pt", "models/model.pt", parts)  # doctest: +SKIP
        PosixPath('models/model-0123456789ab.pt')
    """
    weights, served = Path(weights), Path(served)
    for path in (weights, served):
        if not path.is_file():
            raise CheckpointError(f"Checkpoint {path} does not exist.")
    _refuse_other_settings(weights, served)
    split_file = served.with_name("split.json")
    content = _extended(split_file, parts)
    digest = hashlib.sha256(served.read_bytes()).hexdigest()[:12]
    kept = served.with_name(f"{served.stem}-{digest}{served.suffix}")
    # Weights are kept last. If they are, an earlier attempt did it, and may have replaced the other two since.
    if not kept.exists():
        for path in (split_file, served.with_suffix(".json"), served):
            if path.is_file():
                _copy(path, path.with_name(f"{path.stem}-{digest}{path.suffix}"))
    write_split_file(split_file, content)
    if weights.with_suffix(".json").is_file():
        _copy(weights.with_suffix(".json"), served.with_suffix(".json"))
    _copy(weights, served)
    return kept


def _refuse_other_settings(weights: Path, served: Path) -> None:
    """Settings are replaced before the weights and must fit both, for as long as the former weights are there."""
    files = [path.with_suffix(".json") for path in (weights, served)]
    if not all(file.is_file() for file in files):
        return
    new, former = (json.loads(file.read_text(encoding="utf-8")) for file in files)
    for name in former.keys() & new.keys():
        if new[name] != former[name]:
            raise CheckpointError(
                f"Checkpoint {weights} was trained with {name}={new[name]!r}, expected {former[name]!r} as {served}, "
                "which it is to replace."
            )


def _copy(source: Path, target: Path) -> None:
    with atomic_write(target) as temporary:
        shutil.copyfile(source, temporary)


def _extended(split_file: Path, parts: Mapping[str, Datalist]) -> dict[str, list]:
    """The content of a split file with more training images, each listed once and in one part."""
    former = json.loads(split_file.read_text(encoding="utf-8")) if split_file.is_file() else {"training_sha256": []}
    entries, digests = list(former.get("training", [])), former.get("training_sha256")
    # One without hashes was written by hand: its images are known by their names, and so must the new ones be.
    identify = _names if digests is None else image_hashes
    known = list(identify(entries) if digests is None else digests)
    for key, entry in zip(identify(parts["training"]), parts["training"], strict=True):
        if key not in known:
            known.append(key)
            entries.append(entry)
    judged = zip(identify(parts["validation"]), parts["validation"], strict=True)
    validation = [entry for key, entry in judged if key not in known]
    if not validation:
        raise DatasetError(
            f"{split_file}: all {len(parts['validation'])} validation images are training images of these or the "
            "former weights; expected at least one other."
        )
    content = {"training": entries, "validation": validation}
    return content if digests is None else {**content, "training_sha256": known}


def _names(entries: Datalist) -> list[str]:
    return [entry["name"] for entry in entries]
