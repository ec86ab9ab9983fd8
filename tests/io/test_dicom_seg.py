# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses
import itertools
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pydicom
import pytest
import torch
from monai.data import MetaTensor
from pydicom.uid import SegmentationStorage

from monai_segdiff.io.dicom_seg import write_dicom_probability, write_dicom_seg
from monai_segdiff.io.dicom_seg_reader import read_dicom_probability, read_dicom_seg
from monai_segdiff.io.dicom_series import read_dicom_series

sys.path.insert(0, str(Path(__file__).parent))
from synthetic_seg import ARGUMENTS, HIPPOCAMPUS, KINDS, ORIGIN, SEGMENTS, STRUCTURE, assert_conformant, make  # noqa: E402
from synthetic_series import SyntheticSeries, write_series  # noqa: E402


def by_hand(path: Path, series: SyntheticSeries) -> np.ndarray:
    """The stored numbers of a segmentation, [K, X, Y, Z], its frames placed by ImagePositionPatient; no highdicom."""
    seg = pydicom.dcmread(path)
    frames, rows, columns = int(seg.NumberOfFrames), seg.Rows, seg.Columns
    numbers = np.frombuffer(seg.PixelData, np.uint8)
    if seg.BitsAllocated == 1:
        numbers = np.unpackbits(numbers, bitorder="little")
    numbers = numbers[: frames * rows * columns].reshape(frames, rows, columns)
    shared = seg.SharedFunctionalGroupsSequence[0]
    cosines = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, dtype=float)
    np.testing.assert_allclose(cosines, [*series.row, *series.column], atol=1e-9)
    np.testing.assert_allclose(shared.PixelMeasuresSequence[0].PixelSpacing, series.spacing)
    found = np.zeros((len(seg.SegmentSequence), columns, rows, len(series.paths)), np.uint8)
    seen = set()
    for frame, group in zip(numbers, seg.PerFrameFunctionalGroupsSequence, strict=True):
        position = np.array(group.PlanePositionSequence[0].ImagePositionPatient, dtype=float)
        distances = np.linalg.norm(series.positions - position, axis=1)
        # Of one segment alone, its number is said once for all frames.
        holder = group if "SegmentIdentificationSequence" in group else shared
        k, segment = int(distances.argmin()), holder.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        assert distances[k] < 1e-9
        assert (k, segment) not in seen
        seen.add((k, segment))
        source = group.DerivationImageSequence[0].SourceImageSequence[0]
        assert source.ReferencedSOPInstanceUID == series.uids[k]
        found[segment - 1, :, :, k] = frame.T
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_mask(kind: str, tmp_path: Path) -> None:
    source, series, mask = make(tmp_path, kind)
    path = tmp_path / "new" / "seg.dcm"
    write_dicom_seg(path, mask, series, SEGMENTS, **ARGUMENTS)
    np.testing.assert_array_equal(by_hand(path, source), np.stack([mask == 1, mask == 2]))
    found = read_dicom_seg(path, series)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, mask)


@pytest.mark.parametrize("kind", KINDS)
def test_probability(kind: str, tmp_path: Path) -> None:
    source, series, mask = make(tmp_path, kind)
    probability = np.random.default_rng(6).random((2, *mask.shape), dtype=np.float32)
    probability[1, :, :, 0] = 0
    probability[0, :2, 0, 0] = [0, 1]
    path = tmp_path / "probability.dcm"
    write_dicom_probability(path, probability, series, SEGMENTS, **ARGUMENTS)
    stored = by_hand(path, source)
    assert np.abs(stored - 255 * probability.astype(np.float64)).max() <= 0.5 + 1e-4
    seg = pydicom.dcmread(path)
    assert (seg.SegmentationType, seg.SegmentationFractionalType) == ("FRACTIONAL", "PROBABILITY")
    assert seg.MaximumFractionalValue == 255
    found = read_dicom_probability(path, series)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, stored.astype(np.float32) / np.float32(255))
    assert np.abs(found - probability).max() <= 1 / 510 + 1e-6


def test_every_level_of_probability_comes_back(tmp_path: Path) -> None:
    series = read_dicom_series(write_series(tmp_path / "series", shape=(2, 8, 16)).folder)
    levels = np.arange(256, dtype=np.float32).reshape(1, 16, 8, 2) / np.float32(255)
    path = tmp_path / "probability.dcm"
    write_dicom_probability(path, levels, series, {1: SEGMENTS[1]}, **ARGUMENTS)
    np.testing.assert_array_equal(read_dicom_probability(path, series), levels)


@pytest.mark.parametrize(
    ("probability", "level"), [(0.5, 128), (0.49, 125), (0.0019, 0), (0.002, 1), (2.5 / 255, 2), (0.999, 255)]
)
def test_rounding_of_probability(probability: float, level: int, tmp_path: Path) -> None:
    source, series, mask = make(tmp_path)
    array = np.full((1, *mask.shape), probability, np.float32)
    path = tmp_path / "probability.dcm"
    write_dicom_probability(path, array, series, {1: SEGMENTS[1]}, **ARGUMENTS)
    assert (by_hand(path, source) == level).all()


@pytest.mark.parametrize("label", [0, 1, 2])
def test_empty_mask_and_absent_class(label: int, tmp_path: Path) -> None:
    source, series, mask = make(tmp_path)
    mask = np.where(mask == label, mask, 0).astype(np.uint8)
    path = tmp_path / "seg.dcm"
    write_dicom_seg(path, mask, series, SEGMENTS, **ARGUMENTS)
    seg = pydicom.dcmread(path)
    # The second slice is empty; without any class, there must be frames all the same.
    assert seg.NumberOfFrames == (len(source.paths) - 1 if label else 2 * len(source.paths))
    assert len(seg.SegmentSequence) == 2
    np.testing.assert_array_equal(by_hand(path, source), np.stack([mask == 1, mask == 2]))
    np.testing.assert_array_equal(read_dicom_seg(path, series), mask)


@pytest.mark.parametrize("value", [0.0, 0.001])
def test_probability_of_nothing(value: float, tmp_path: Path) -> None:
    source, series, mask = make(tmp_path)
    path = tmp_path / "probability.dcm"
    write_dicom_probability(path, np.full((2, *mask.shape), value, np.float32), series, SEGMENTS, **ARGUMENTS)
    assert pydicom.dcmread(path).NumberOfFrames == 2 * len(source.paths)
    np.testing.assert_array_equal(read_dicom_probability(path, series), np.zeros((2, *mask.shape)))


@pytest.mark.parametrize("kind", [torch.as_tensor, MetaTensor])
def test_tensors(kind: Callable[[torch.Tensor], torch.Tensor], tmp_path: Path) -> None:
    _, series, mask = make(tmp_path)
    write_dicom_seg(tmp_path / "seg.dcm", kind(torch.from_numpy(mask)), series, SEGMENTS, **ARGUMENTS)
    np.testing.assert_array_equal(read_dicom_seg(tmp_path / "seg.dcm", series), mask)


def codes(sequence: Any) -> list[tuple[str, str, str]]:
    return [(item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning) for item in sequence]


@pytest.mark.parametrize("origin", [ORIGIN, SimpleNamespace(**ORIGIN)])
def test_what_the_object_says(origin: Any, tmp_path: Path) -> None:
    def latin(k: int, data: pydicom.Dataset) -> None:
        data.SpecificCharacterSet, data.PatientName = "ISO_IR 100", "Müller^Zoë"

    source = write_series(tmp_path / "series", change=latin)
    series = read_dicom_series(source.folder)
    mask = np.ones(series.image.shape[1:], np.uint8)
    path = tmp_path / "seg.dcm"
    write_dicom_seg(path, mask, series, SEGMENTS, algorithm="DDPS", provenance=origin, description="Hippocampe é")
    seg, image = pydicom.dcmread(path), pydicom.dcmread(source.paths[0])

    assert (seg.SOPClassUID, seg.Modality, seg.SegmentationType) == (SegmentationStorage, "SEG", "BINARY")
    for name in ("PatientID", "PatientBirthDate", "StudyInstanceUID", "StudyDate", "FrameOfReferenceUID"):
        assert seg[name].value == image[name].value
    assert str(seg.PatientName) == "Müller^Zoë"
    assert (seg.SeriesDescription, seg.SeriesNumber) == ("Hippocampe é", 1007)
    assert seg.SeriesInstanceUID != image.SeriesInstanceUID
    references = seg.ReferencedSeriesSequence[0]
    assert references.SeriesInstanceUID == series.series_uid
    assert {item.ReferencedSOPInstanceUID for item in references.ReferencedInstanceSequence} == {*source.uids}

    first, second = seg.SegmentSequence
    assert [item.SegmentNumber for item in (first, second)] == [1, 2]
    assert [item.SegmentLabel for item in (first, second)] == ["Anterior hippocampus", "Hippocampe postérieur"]
    for item in (first, second):
        assert item.SegmentAlgorithmType == "AUTOMATIC"
        assert codes(item.SegmentedPropertyCategoryCodeSequence) == [STRUCTURE]
        assert codes(item.SegmentedPropertyTypeCodeSequence) == [HIPPOCAMPUS]
        algorithm = item.SegmentationAlgorithmIdentificationSequence[0]
        assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("DDPS", "0.1.0")
        assert codes(algorithm.AlgorithmFamilyCodeSequence) == [("123110", "DCM", "Artificial Intelligence")]
        assert dict(pair.split("=") for pair in algorithm.AlgorithmParameters.split(",")) == {
            **{name: str(value) for name, value in ORIGIN.items() if name != "settings"},
            "settings.num_inference_steps": "10",
            "settings.roi_size": "[32; 48]",
        }
    modifier = first.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence
    assert codes(modifier) == [("255549009", "SCT", "Anterior")]
    assert "AnatomicRegionSequence" not in first
    assert "SegmentedPropertyTypeModifierCodeSequence" not in second.SegmentedPropertyTypeCodeSequence[0]
    assert codes(second.AnatomicRegionSequence) == [("12738006", "SCT", "Brain")]
    assert first.TrackingUID != second.TrackingUID
    assert first.TrackingID != second.TrackingID

    equipment = [item for item in seg.ContributingEquipmentSequence if item.Manufacturer == "monai_segdiff"]
    assert len(equipment) == 1
    assert list(equipment[0].SoftwareVersions) == ["0.2.0", "0.1.0", "torch 2.13.0"]
    for text in ("hippocampus 0.1.0", ORIGIN["weights_sha256"], "seed 7", "device cpu"):
        assert text in equipment[0].ContributionDescription
    assert (seg.Manufacturer, seg.DeviceSerialNumber) == ("monai_segdiff", ORIGIN["weights_sha256"])


def test_each_object_is_another(tmp_path: Path) -> None:
    _, series, mask = make(tmp_path)
    for name in ("a.dcm", "b.dcm"):
        write_dicom_seg(tmp_path / name, mask, series, SEGMENTS, **ARGUMENTS)
    first, second = (pydicom.dcmread(tmp_path / name) for name in ("a.dcm", "b.dcm"))
    for name in ("SOPInstanceUID", "SeriesInstanceUID"):
        assert first[name].value != second[name].value


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="without dciodvfy (Debian: dicom3tools)")
@pytest.mark.parametrize("kind", KINDS)
def test_conformance(kind: str, tmp_path: Path) -> None:
    _, series, mask = make(tmp_path, kind)
    probability = np.stack([mask == 1, mask == 2]).astype(np.float32) * np.float32(0.3)
    paths = [tmp_path / name for name in ("seg.dcm", "empty.dcm", "probability.dcm")]
    write_dicom_seg(paths[0], mask, series, SEGMENTS, **ARGUMENTS)
    write_dicom_seg(paths[1], np.zeros_like(mask), series, SEGMENTS, **ARGUMENTS)
    write_dicom_probability(paths[2], probability, series, SEGMENTS, **ARGUMENTS)
    for path in paths:
        assert_conformant(path)


def test_order_of_files_is_what_counts(tmp_path: Path) -> None:
    # Two slices exchanged in the object: their frames go with them.
    source, series, mask = make(tmp_path)
    order = [1, 0, *range(2, len(series.files))]
    exchanged = dataclasses.replace(
        series,
        files=tuple(series.files[k] for k in order),
        instance_uids=tuple(series.instance_uids[k] for k in order),
    )
    write_dicom_seg(tmp_path / "seg.dcm", mask[..., order], exchanged, SEGMENTS, **ARGUMENTS)
    np.testing.assert_array_equal(by_hand(tmp_path / "seg.dcm", source), np.stack([mask == 1, mask == 2]))
    np.testing.assert_array_equal(read_dicom_seg(tmp_path / "seg.dcm", series), mask)


def test_voxels_lie_where_the_image_does(tmp_path: Path) -> None:
    # One voxel of an oblique, reversed and anisotropic series: its place in the patient by the two objects' headers.
    source, series, mask = make(tmp_path, "reversed")
    for c, r, k in itertools.product((0, 8), (0, 5), (0, 4)):
        mask[:] = 0
        mask[c, r, k] = 2
        write_dicom_seg(tmp_path / "seg.dcm", mask, series, SEGMENTS, **ARGUMENTS)
        seg = pydicom.dcmread(tmp_path / "seg.dcm")
        position = np.array(
            seg.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0].ImagePositionPatient, float
        )
        bits = np.unpackbits(np.frombuffer(seg.PixelData, np.uint8), bitorder="little")
        row, column = divmod(int(bits.argmax()), seg.Columns)
        lps = position + source.row * source.spacing[1] * column + source.column * source.spacing[0] * row
        np.testing.assert_allclose(lps * [-1, -1, 1], (series.image.affine.numpy() @ [c, r, k, 1])[:3], atol=1e-9)
