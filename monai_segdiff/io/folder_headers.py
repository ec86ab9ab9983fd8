# SPDX-License-Identifier: Apache-2.0
"""The DICOM files of a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..exceptions import SeriesError
from .import_dicom import import_dicom

__all__ = ["read_folder_headers"]

SUFFIXES = {".dcm", ".dicom", ".ima"}
TAGS = [
    *("SOPInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "Modality", "NumberOfFrames"),
    *("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "SharedFunctionalGroupsSequence"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "SpacingBetweenSlices"),
    "RescaleSlope",
]
FIRST_GROUPS = (0x02, 0x08)  # of DICOM without its prefix: file meta information, or the data set itself


def read_folder_headers(folder: Path) -> dict[str, list[tuple[Path, Any]]]:
    """Read the headers of the DICOM files in a folder.

    DICOM is what has its prefix, 128 bytes and ``DICM``; what lacks the prefix but begins as DICOM does after it; and
    what is named ``.dcm``, ``.dicom`` or ``.ima``, in capitals or not. A damaged one is refused, as it may be a slice
    of the series. All else is passed over, and so are a DICOMDIR, names that begin with a dot (as macOS puts
    ``._IM0001.dcm`` beside ``IM0001.dcm``), subfolders, pipes and devices.

    Args:
        folder: the folder.

    Returns:
        Path and header (pydicom ``Dataset`` of what a grid needs) of each file, by SeriesInstanceUID.

    Raises:
        SeriesError: there is no such folder, no DICOM in it, or a DICOM file that cannot be read or has no
            SeriesInstanceUID.
        ImportError: the extra ``dicom`` is not installed.

    Example:
        >>> {uid: len(headers) for uid, headers in read_folder_headers(Path("studies/0001")).items()}  # doctest: +SKIP
        {'1.2.3': 36}
    """
    pydicom = import_dicom("pydicom")
    if not folder.is_dir():
        raise SeriesError(f"{folder}: is no folder; expected one that holds a DICOM series.")
    series: dict[str, list[tuple[Path, Any]]] = {}
    for path in sorted(folder.iterdir()):
        # A link to nothing may have been a slice: it is read, and refused.
        if path.name.startswith(".") or (path.exists() and not path.is_file()):
            continue
        try:
            if not _is_dicom(path):
                continue
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=TAGS, force=True)
            uid = str(header.get("SeriesInstanceUID") or "")
        except Exception as error:  # pydicom raises many types on damaged files
            raise SeriesError(
                f"{path}: cannot be read ({type(error).__name__}: {error}); expected a DICOM file."
            ) from error
        if header.file_meta.get("MediaStorageSOPClassUID") == pydicom.uid.MediaStorageDirectoryStorage:
            continue
        if not uid:
            raise SeriesError(
                f"{path}: has no SeriesInstanceUID; expected a whole DICOM file (is the file truncated?)."
            )
        series.setdefault(uid, []).append((path, header))
    if not series:
        raise SeriesError(f"{folder}: holds no DICOM file; expected the slices of one series.")
    return series


def _is_dicom(path: Path) -> bool:
    with open(path, "rb") as file:
        start = file.read(132)
    if start[128:] == b"DICM":
        return True
    # An element of one of these groups, little endian; the first of a file have numbers below 256.
    begins = len(start) == 132 and start[0] in FIRST_GROUPS and start[1] == start[3] == 0
    if not begins and path.suffix.lower() in SUFFIXES:
        raise SeriesError(
            f"{path}: has no DICOM prefix and does not begin as DICOM does; expected a DICOM file by its name (is it "
            "truncated?)."
        )
    return begins
