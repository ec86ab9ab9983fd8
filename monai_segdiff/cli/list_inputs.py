# SPDX-License-Identifier: Apache-2.0
"""Images that a command is to work on."""

from __future__ import annotations

import os
from pathlib import Path

from ..exceptions import DatasetError

__all__ = ["list_inputs"]

PREFIX = slice(128, 132)  # of a DICOM file: DICM


def list_inputs(source: str | os.PathLike[str], spatial_dims: int) -> dict[str, str]:
    """List the images to segment; none is opened.

    Args:
        source: a file, a folder or a ``.txt`` list of files, as for :func:`monai_segdiff.image_datalist` (two
            dimensions) or :func:`monai_segdiff.volume_datalist` (three); with three dimensions also a folder with a
            DICOM series, which is one image.
        spatial_dims: 2 or 3.

    Returns:
        Absolute paths by name: file name without suffix, or name of the folder of the series.

    Raises:
        DatasetError: something is missing, empty, of another kind, or named like another; or a folder holds both NIfTI
            and DICOM files, or images beside a subfolder of images.

    Example:
        >>> list_inputs("studies/0001/t1", spatial_dims=3)  # doctest: +SKIP
        {'t1': '/data/studies/0001/t1'}
    """
    from ..data import image_datalist, volume_datalist
    from ..data.monuseg import IMAGE_SUFFIXES
    from ..data.volume_datalist import VOLUME_SUFFIXES

    folder = Path(os.path.abspath(os.path.expanduser(source)))
    if spatial_dims == 2:
        return _by_name(folder, image_datalist(source), IMAGE_SUFFIXES)
    has_series = folder.is_dir() and any(map(_is_dicom, folder.iterdir()))
    try:
        volumes = volume_datalist(source)
    except DatasetError as error:
        if has_series:
            return {folder.name: str(folder)}
        raise DatasetError(f"{error} A folder with a DICOM series will do as well.") from error
    if has_series:
        raise DatasetError(f"{folder}: holds NIfTI and DICOM files; expected one kind: give the NIfTI file itself.")
    return _by_name(folder, volumes, VOLUME_SUFFIXES)


def _by_name(folder: Path, entries: list[dict[str, str]], suffixes: tuple[str, ...]) -> dict[str, str]:
    """Refuse images of a subfolder, which is looked for first, where the folder has some as well."""
    from ..data.monuseg import list_files

    taken = Path(entries[0]["image"]).parent
    beside = list_files(folder, suffixes) if folder.is_dir() and taken != folder else []
    if beside:
        raise DatasetError(
            f"{folder}: holds images ({beside[0].name}), and so does {taken}; expected one place: give the subfolder, "
            "or a .txt list of files."
        )
    return {entry["name"]: entry["image"] for entry in entries}


def _is_dicom(path: Path) -> bool:
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        return file.read(PREFIX.stop)[PREFIX] == b"DICM"
