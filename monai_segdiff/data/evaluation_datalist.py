# SPDX-License-Identifier: Apache-2.0
"""What a trained model may be judged on."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable

from ..exceptions import DatasetError
from .monuseg import absolute, monuseg_datalist
from .split_file import Datalist, image_hashes, read_split_file

__all__ = ["evaluation_datalist"]

logger = logging.getLogger(__name__)


def evaluation_datalist(
    dataset_dir: str | os.PathLike[str],
    training_split: str | os.PathLike[str] | None = None,
    datalist: Callable[[str | os.PathLike[str]], Datalist] = monuseg_datalist,
) -> Datalist:
    """List the pairs of a dataset on which a model was not trained.

    Args:
        dataset_dir: a folder that ``datalist`` knows.
        training_split: split file of the training, as :func:`~monai_segdiff.data.monuseg_split.monuseg_split` and its
            like write it. The images of its ``"training"`` part are left out, recognised by their content. Without the
            file nothing is left out, with a warning.
        datalist: function that lists the pairs of the folder.

    Returns:
        ``{"name", "image", "label"}`` dictionaries, sorted by name.

    Raises:
        DatasetError: when the folder or an existing split file is unusable, or when no image remains.

    Example:
        >>> len(evaluation_datalist("MoNuSeg 2018 Training Data", "out/split.json"))  # doctest: +SKIP
        6
    """
    everything = datalist(dataset_dir)
    if training_split is None or not absolute(training_split).exists():
        logger.warning("%s: the split of the training is not known; some images may be training images.", dataset_dir)
        return everything
    path = absolute(training_split)
    names = {entry["name"] for entry in read_split_file(path)["training"]}
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
