# SPDX-License-Identifier: Apache-2.0
"""The headers of a series, fit for a segmentation that refers to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..exceptions import SeriesError
from .dicom_series import DicomSeries
from .header_length import header_length
from .import_dicom import import_dicom

__all__ = ["check_segmentable", "mend_headers", "source_headers"]

NEEDED = ("SOPClassUID", "StudyInstanceUID", "FrameOfReferenceUID")
# Type 2: a segmentation has them, maybe empty.
BLANK = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("StudyID", "StudyDate", "StudyTime", "AccessionNumber"),
)
SEXES = ("", "M", "F", "O")
PATIENT = 0x0010  # group of the elements of the patient
FEWEST_PIXELS = 8  # of a frame; highdicom packs the bits of smaller ones wrongly


def check_segmentable(series: DicomSeries) -> None:
    """Find out, before the work is done, whether a DICOM segmentation can refer to a series.

    Args:
        series: the series; its files are read again.

    Raises:
        SeriesError: as for :func:`source_headers`.
        ImportError: the extra ``dicom`` is not installed.

    Example:
        >>> check_segmentable(read_dicom_series("studies/0001/t1"))  # doctest: +SKIP
    """
    source_headers(series)


def source_headers(series: DicomSeries) -> list[Any]:
    """Read the headers of a series in the order of its slices, and make them fit: see :func:`mend_headers`.

    Args:
        series: the series.

    Raises:
        SeriesError: its files are gone or hold something else now, or as for :func:`mend_headers`.
        ImportError: the extra ``dicom`` is not installed.

    Example:
        >>> headers = source_headers(read_dicom_series("studies/0001/t1"))  # doctest: +SKIP
    """
    pydicom = import_dicom("pydicom")
    headers = []
    for path, uid in zip(series.files, series.instance_uids, strict=True):
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True, force=True)
            found = str(header.SOPInstanceUID)
        except Exception as error:  # pydicom raises many types on damaged files
            raise SeriesError(f"{path}: cannot be read ({error}); expected the slice {uid} of the series.") from error
        if found != uid:
            raise SeriesError(f"{path}: holds the slice {found}; expected {uid}, as when the series was read.")
        headers.append(header)
    mend_headers(headers, series.image.affine.numpy())
    return headers


def mend_headers(headers: Sequence[Any], affine: np.ndarray) -> None:
    """Change the headers of a regular series in place, so that highdicom can make a valid segmentation of it.

    All get orientation and spacing of the first, from which they may differ in the last decimals. The distance of the
    slices becomes the true one, and so does a thickness that is missing or no number. What a segmentation repeats of
    patient and study is blanked where it is missing or not valid, as anonymised series have it.

    Args:
        headers: pydicom ``Dataset`` of each slice, in order, read from a file.
        affine: of the volume, [4, 4].

    Raises:
        SeriesError: a slice lacks SOPClassUID, StudyInstanceUID or FrameOfReferenceUID, is no kind of image that
            segmentations refer to, is of another study, or has fewer than 8 pixels.
        ImportError: the extra ``dicom`` is not installed.

    Example:
        >>> mend_headers(headers, series.image.affine.numpy())  # doctest: +SKIP
    """
    valuerep = import_dicom("pydicom.valuerep")
    first = headers[0]
    step = float(np.linalg.norm(affine[:3, 2]))
    for header in headers:
        _check(header, first)
        header.ImageOrientationPatient, header.PixelSpacing = first.ImageOrientationPatient, first.PixelSpacing
        thickness = header_length(header, "SliceThickness") or step
        header.SliceThickness = valuerep.format_number_as_ds(thickness)
        header.SpacingBetweenSlices = valuerep.format_number_as_ds(step)
    _mend_patient(first)


def _check(header: Any, first: Any) -> None:
    pydicom = import_dicom("pydicom")
    for name in NEEDED:
        if not header.get(name):
            raise SeriesError(f"{header.filename}: has no {name}; expected it, as a segmentation must repeat it.")
    kind = pydicom.uid.UID(header.SOPClassUID)
    if not kind.name.endswith("Image Storage") or kind.is_retired:
        raise SeriesError(
            f"{header.filename}: has the SOPClassUID {kind} ({kind.name}); expected MR, CT or other images that a "
            "segmentation can refer to."
        )
    if header.StudyInstanceUID != first.StudyInstanceUID:
        raise SeriesError(
            f"{header.filename}: has the StudyInstanceUID {header.StudyInstanceUID}; expected "
            f"{first.StudyInstanceUID}, as {first.filename} has."
        )
    if header.Rows * header.Columns < FEWEST_PIXELS:
        raise SeriesError(
            f"{header.filename}: has {header.Rows} x {header.Columns} pixels; expected {FEWEST_PIXELS} or more in a "
            "slice, as the frames of a segmentation need."
        )


def _mend_patient(header: Any) -> None:
    datadict = import_dicom("pydicom.datadict")
    for name in BLANK:
        if name not in header:
            setattr(header, name, "")
    if _text(header, "PatientSex") not in SEXES:
        header.PatientSex = ""
    for tag in [*header.keys()]:
        name = datadict.keyword_for_tag(tag)
        if not name or (tag.group != PATIENT and name not in BLANK):
            continue
        text = _text(header, tag)
        valid = _valid(text, header.get_item(tag).VR or datadict.dictionary_VR(tag))
        if valid != text and not valid and name not in BLANK:
            del header[tag]
        elif valid != text:
            setattr(header, name, valid)


def _text(header: Any, tag: Any) -> str:
    """The value as the file has it. pydicom would warn of those that are not valid."""
    value = header.get_item(tag).value
    return value.decode("ascii", "replace").strip(" \0") if isinstance(value, bytes) else str(value or "")


def _valid(text: str, vr: str) -> str:
    """The value, blank if it is not valid: of dates, times, ages and numbers, as any text is valid elsewhere."""
    valuerep = import_dicom("pydicom.valuerep")
    try:
        if text and vr == "DA":
            return str(valuerep.DA(text).isoformat().replace("-", ""))
        if text and vr == "TM":
            return str(valuerep.TM(text))
        if vr in ("AS", "DS"):
            valuerep.validate_value(vr, text, import_dicom("pydicom.config").RAISE)
    except ValueError:
        return ""
    return text
