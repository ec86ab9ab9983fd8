# SPDX-License-Identifier: Apache-2.0
"""DICOM segmentations, laid on the series that they were made from."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..exceptions import ImageError, SeriesError
from .dicom_series import DicomSeries
from .import_dicom import import_dicom

__all__ = ["read_dicom_probability", "read_dicom_seg"]


def read_dicom_seg(path: str | os.PathLike[str], series: DicomSeries) -> np.ndarray:
    """Read a segmentation of the type BINARY as class indices.

    Frames find their slice by the SOPInstanceUID that they refer to; slices without a frame are background.

    Args:
        path: the file.
        series: what it segments.

    Returns:
        uint8 [X, Y, Z] on the grid of ``series.image``: the number of the segment, 0 for none.

    Raises:
        ImageError: the file cannot be read, is no such segmentation, or its segments overlap, which class indices
            cannot say.
        SeriesError: it segments another series or other slices, or has no pixel for each of theirs.
        ImportError: the extra ``dicom`` is not installed.

    Example:
        >>> mask = read_dicom_seg("seg.dcm", series)  # doctest: +SKIP
    """
    frames = _read(Path(path), series, "BINARY")
    overlap = np.count_nonzero(np.count_nonzero(frames, axis=-1) > 1)
    if overlap:
        raise ImageError(f"{path}: the segments overlap in {overlap} voxels; expected one class to a voxel.")
    numbers = np.arange(1, frames.shape[-1] + 1, dtype=np.uint8)
    return (frames * numbers).max(axis=-1).transpose(2, 1, 0)


def read_dicom_probability(path: str | os.PathLike[str], series: DicomSeries) -> np.ndarray:
    """Read a segmentation of the type FRACTIONAL.

    Args:
        path: the file.
        series: what it segments.

    Returns:
        float32 [K, X, Y, Z] on the grid of ``series.image``: the stored numbers by MaximumFractionalValue, for each of
        the K segments; 0 where there is no frame.

    Raises:
        ImageError: the file cannot be read or is no such segmentation.
        SeriesError: as for :func:`read_dicom_seg`.
        ImportError: the extra ``dicom`` is not installed.

    Example:
        >>> probability = read_dicom_probability("probability.dcm", series)  # doctest: +SKIP
    """
    return _read(Path(path), series, "FRACTIONAL").transpose(3, 2, 1, 0)


def _read(path: Path, series: DicomSeries, expected: str) -> np.ndarray:
    """The frames of all segments, [Z, Y, X, K]."""
    highdicom = import_dicom("highdicom")
    try:
        segmentation = highdicom.seg.segread(path)
        kind = str(segmentation.SegmentationType)
        shape = (int(segmentation.Columns), int(segmentation.Rows))
    except Exception as error:  # pydicom and highdicom raise many types on other and damaged files
        raise ImageError(f"{path}: cannot be read ({error}); expected a DICOM segmentation.") from error
    if kind != expected:
        raise ImageError(f"{path}: is a segmentation of the type {kind}; expected {expected}.")
    _check_sources(segmentation.get_source_image_uids(), series, path)
    if shape != tuple(series.image.shape[1:3]):
        raise SeriesError(
            f"{path}: has frames of {shape[0]} x {shape[1]} pixels; expected "
            f"{series.image.shape[1]} x {series.image.shape[2]}, as the slices have."
        )
    try:
        return segmentation.get_pixels_by_source_instance(
            source_sop_instance_uids=series.instance_uids,
            assert_missing_frames_are_empty=True,
        )
    except Exception as error:  # damaged pixel data
        raise ImageError(
            f"{path}: the frames cannot be read ({error}); expected a whole DICOM segmentation."
        ) from error


def _check_sources(sources: Sequence[tuple[Any, Any, Any]], series: DicomSeries, path: Path) -> None:
    """Check the UIDs of study, series and instance of each source."""
    if not sources:
        raise SeriesError(
            f"{path}: names no slices that it was made from (in ReferencedSeriesSequence); expected some of the "
            f"{len(series.files)} of {series.series_uid}."
        )
    others = {uid for _, _, uid in sources} - {*series.instance_uids}
    if others:
        found = sorted({str(uid) for _, uid, _ in sources})
        raise SeriesError(
            f"{path}: refers to {len(sources)} slices of the series {found}, {len(others)} of them unknown; expected "
            f"some of the {len(series.files)} of {series.series_uid}."
        )
