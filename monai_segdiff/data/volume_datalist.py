# SPDX-License-Identifier: Apache-2.0
"""NIfTI volumes without labels, for inference."""

from __future__ import annotations

import os
from collections.abc import Sequence

from .image_datalist import list_images

__all__ = ["volume_datalist"]

VOLUME_SUFFIXES = (".nii", ".nii.gz")


def volume_datalist(volumes: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[dict[str, str]]:
    """List the volumes to segment.

    Args:
        volumes: a folder (or one that has ``imagesTs`` or else ``imagesTr`` inside), one NIfTI file, a ``.txt`` file
            with one path a line (relative to that file; empty lines are skipped), or a list of NIfTI files.

    Returns:
        One dictionary per volume: ``name`` (file name without ``.nii`` or ``.nii.gz``) and ``image`` (absolute path).
        Sorted by name for a folder, otherwise in the order given. No volume has been opened.

    Raises:
        DatasetError: when something is missing, empty or not NIfTI by its suffix, or when two volumes have the same
            name, whose outputs would overwrite each other.

    Example:
        >>> volume_datalist("Task04_Hippocampus")[0]  # doctest: +SKIP
        {'name': 'hippocampus_002', 'image': '/data/Task04_Hippocampus/imagesTs/hippocampus_002.nii.gz'}
    """
    return list_images(volumes, VOLUME_SUFFIXES, ("imagests", "imagestr"))
