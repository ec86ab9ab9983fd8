# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from monai_segdiff.exceptions import ImageError, SeriesError
from monai_segdiff.io.dicom_seg import write_dicom_probability, write_dicom_seg
from monai_segdiff.io.dicom_seg_reader import read_dicom_probability, read_dicom_seg
from monai_segdiff.io.dicom_series import DicomSeries, read_dicom_series
from monai_segdiff.io.segment_code import CodedTerm, SegmentCode

sys.path.insert(0, str(Path(__file__).parent))
from synthetic_series import write_series  # noqa: E402

TERM = CodedTerm("5366008", "SCT", "Hippocampus")
SEGMENTS = {k: SegmentCode(f"part {k}", CodedTerm("91723000", "SCT", "Anatomical Structure"), TERM) for k in (1, 2, 3)}
NAMES = "bundle bundle_version weights_sha256 package_version torch_version device seed"
ORIGIN: dict[str, Any] = {**dict.fromkeys(NAMES.split(), "1"), "settings": {}}


@pytest.fixture
def series(tmp_path: Path) -> DicomSeries:
    return read_dicom_series(write_series(tmp_path / "series", plane="oblique", reverse=True).folder)


def write_mask(path: Path, series: DicomSeries) -> np.ndarray:
    mask = np.random.default_rng(0).integers(0, 4, tuple(series.image.shape[1:])).astype(np.uint8)
    write_dicom_seg(path, mask, series, SEGMENTS, algorithm="DDPS", provenance=ORIGIN)
    return mask


def write_probability(path: Path, series: DicomSeries) -> np.ndarray:
    probability = np.random.default_rng(0).random((3, *series.image.shape[1:]), dtype=np.float32)
    write_dicom_probability(path, probability, series, SEGMENTS, algorithm="DDPS", provenance=ORIGIN)
    return probability


def test_frames_in_another_order(series: DicomSeries, tmp_path: Path) -> None:
    # Neither the order of the frames nor that of the segments' frames says where they belong.
    path = tmp_path / "seg.dcm"
    mask = write_mask(path, series)
    seg = pydicom.dcmread(path)
    order = np.random.default_rng(1).permutation(seg.NumberOfFrames)
    bits = np.unpackbits(np.frombuffer(seg.PixelData, np.uint8), bitorder="little")
    bits = bits[: seg.NumberOfFrames * seg.Rows * seg.Columns].reshape(seg.NumberOfFrames, -1)[order]
    packed = np.packbits(bits, bitorder="little").tobytes()
    seg.PixelData = packed + b"\0" * (len(packed) % 2)
    groups = list(seg.PerFrameFunctionalGroupsSequence)
    seg.PerFrameFunctionalGroupsSequence = [groups[i] for i in order]
    seg.save_as(path)
    np.testing.assert_array_equal(read_dicom_seg(path, series), mask)


def test_maximum_of_another_writer(series: DicomSeries, tmp_path: Path) -> None:
    path = tmp_path / "seg.dcm"
    write_probability(path, series)
    seg = pydicom.dcmread(path)
    stored = np.minimum(np.frombuffer(seg.PixelData, np.uint8), 100)
    seg.PixelData, seg.MaximumFractionalValue = stored.tobytes(), 100
    seg.save_as(path)
    found = read_dicom_probability(path, series)
    assert found.max() == 1
    np.testing.assert_allclose(np.unique(found), np.unique(stored) / 100, atol=1e-6)


def test_overlap(series: DicomSeries, tmp_path: Path) -> None:
    path = tmp_path / "seg.dcm"
    mask = write_mask(path, series)
    seg = pydicom.dcmread(path)
    seg.PixelData = b"\xff" * len(seg.PixelData)
    seg.save_as(path)
    with pytest.raises(ImageError, match=f"seg.dcm: the segments overlap in {mask.size} voxels"):
        read_dicom_seg(path, series)


@pytest.mark.parametrize(
    ("read", "write", "message"),
    [
        (read_dicom_seg, write_probability, "type FRACTIONAL; expected BINARY"),
        (read_dicom_probability, write_mask, "type BINARY; expected FRACTIONAL"),
        (read_dicom_seg, lambda path, series: path.write_bytes(series.files[0].read_bytes()), "cannot be read"),
        (read_dicom_seg, lambda path, series: path.write_text("no DICOM"), "cannot be read"),
        (read_dicom_probability, lambda path, series: None, "cannot be read"),
    ],
)
def test_other_files(read: Callable, write: Callable, message: str, series: DicomSeries, tmp_path: Path) -> None:
    path = tmp_path / "seg.dcm"
    write(path, series)
    with pytest.raises(ImageError, match=f"{path}: .*{message}"):
        read(path, series)


@pytest.mark.parametrize("length", [200, 1500, 4000, -1, -30])
def test_truncated_file(length: int, series: DicomSeries, tmp_path: Path) -> None:
    path = tmp_path / "seg.dcm"
    write_mask(path, series)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ImageError, match=f"{path}: "):
        read_dicom_seg(path, series)


@pytest.mark.parametrize(("write", "read"), [(write_mask, read_dicom_seg), (write_probability, read_dicom_probability)])
def test_other_series(write: Callable, read: Callable, series: DicomSeries, tmp_path: Path) -> None:
    path = tmp_path / "seg.dcm"
    write(path, series)
    other = read_dicom_series(write_series(tmp_path / "other").folder)
    with pytest.raises(SeriesError, match=f"{path}: .*{series.series_uid}.* 5 of them unknown; .*{other.series_uid}"):
        read(path, other)


def test_frames_of_another_size(series: DicomSeries, tmp_path: Path) -> None:
    path = tmp_path / "seg.dcm"
    write_mask(path, series)
    seg = pydicom.dcmread(path)
    seg.Rows, seg.Columns = seg.Columns, seg.Rows
    seg.save_as(path)
    with pytest.raises(SeriesError, match="has frames of 6 x 9 pixels; expected 9 x 6"):
        read_dicom_seg(path, series)


@pytest.mark.parametrize("name", ["Rows", "Columns", "SegmentSequence", "BitsAllocated", "PixelData"])
def test_without(name: str, series: DicomSeries, tmp_path: Path) -> None:
    path = tmp_path / "seg.dcm"
    write_mask(path, series)
    seg = pydicom.dcmread(path)
    delattr(seg, name)
    seg.save_as(path)
    with pytest.raises(ImageError, match=f"{path}: .* expected a"):
        read_dicom_seg(path, series)


def test_without_references(series: DicomSeries, tmp_path: Path) -> None:
    path = tmp_path / "seg.dcm"
    write_mask(path, series)
    seg = pydicom.dcmread(path)
    del seg.ReferencedSeriesSequence
    seg.save_as(path)
    with pytest.raises(SeriesError, match=f"{path}: names no slices that it was made from .*expected some of the 5"):
        read_dicom_seg(path, series)
