# SPDX-License-Identifier: Apache-2.0
"""The crops on which the Cityscapes bundle works."""

from __future__ import annotations

from pathlib import Path

import ignite.distributed as idist

from ..data import generate_cityscapes_sample, prepare_cityscapes_crops
from .sample_dataset import prepare_sample_dataset

__all__ = ["prepare_cityscapes_dataset"]


def prepare_cityscapes_dataset(
    dataset_dir: str | Path,
    crops_dir: str | Path,
    class_name: str,
    box: str = "tight",
    min_size: int = 2,
    sample_dir: str | Path | None = None,
) -> Path:
    """Cut out the objects of a class, in the first process only.

    If the sample scenes are the data, they are generated first.

    Args:
        dataset_dir: folder of Cityscapes.
        crops_dir: folder of the crops; see :func:`~monai_segdiff.data.cityscapes.prepare_cityscapes_crops`, as for the
            next three.
        class_name: the class.
        box: what is cut out around an object.
        min_size: shortest side of a box in pixels.
        sample_dir: folder of the sample scenes; used, and generated where it is missing, if it is ``dataset_dir``.

    Returns:
        The folder of the crops.
    """
    if dataset_dir == sample_dir:
        prepare_sample_dataset(dataset_dir, generate_cityscapes_sample)
    with idist.one_rank_first():
        progress = idist.get_rank() == 0
        return prepare_cityscapes_crops(dataset_dir, crops_dir, class_name, box, min_size=min_size, progress=progress)
