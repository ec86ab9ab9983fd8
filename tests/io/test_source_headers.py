# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from monai_segdiff.exceptions import SeriesError
from monai_segdiff.io.dicom_seg import write_dicom_probability, write_dicom_seg
from monai_segdiff.io.dicom_seg_reader import read_dicom_probability, read_dicom_seg
from monai_segdiff.io.dicom_series import read_dicom_series
from monai_segdiff.io.source_headers import check_segmentable, source_headers

sys.path.insert(0, str(Path(__file__).parent))
from synthetic_seg import ARGUMENTS, SEGMENTS, assert_conformant  # noqa: E402
from synthetic_series import write_series  # noqa: E402

Change = Callable[[int, pydicom.Dataset], Any]


def without(*names: str) -> Change:
    return lambda k, data: [delattr(data, name) for name in names]


def raw(data: pydicom.Dataset, name: str, text: str) -> None:
    """Set an element as a file holds it, without a check of its value."""
    value = text.encode() + b" " * (len(text) % 2)
    tag = Tag(name)
    data[tag] = RawDataElement(tag, pydicom.datadict.dictionary_VR(tag), len(value), value, 0, False, True)


def holding(index: int | None = None, **values: str) -> Change:
    def change(k: int, data: pydicom.Dataset) -> None:
        for name, value in values.items() if index in (None, k) else ():
            raw(data, name, value)

    return change


def tilted_by(angle: float) -> Change:
    """Every second slice is turned a little about its normal."""

    def change(k: int, data: pydicom.Dataset) -> None:
        if k % 2:
            data.ImageOrientationPatient = [1, angle, 0, -angle, 1, 0]

    return change


TYPE_2 = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("StudyID", "StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName"),
)
CHANGES: dict[str, Change] = {
    "orientations of a float": tilted_by(2e-8),
    "orientations of four decimals": tilted_by(9e-5),
    "spacings of four decimals": holding(1, PixelSpacing="0.75001\\1.24999"),
    "nothing of type 2": without(*TYPE_2),
    **{f"no {name}": without(name) for name in TYPE_2},
    "empty patient": holding(**dict.fromkeys(TYPE_2, "")),
    "sex unknown": holding(PatientSex="U"),
    "sex and age in words": holding(PatientSex="anonymous", PatientAge="none"),
    "weight in words": holding(PatientWeight="unknown", PatientSize="unknown"),
    "dates in words": holding(StudyDate="anonymous", PatientBirthDate="anonymous"),
    "dates of zeros": holding(StudyDate="00000000", PatientBirthDate="19000000"),
    "times": holding(StudyTime="25:00"),
    "time in words": holding(StudyTime="anonymous"),
    "no thickness": without("SliceThickness"),
    "empty thickness": holding(SliceThickness=""),
    "thickness 0": holding(SliceThickness="0"),
    "thickness in words": holding(SliceThickness="thin"),
    "wrong distance": holding(SpacingBetweenSlices="7"),
    "distance 0": holding(SpacingBetweenSlices="0"),
    "negative distance": holding(SpacingBetweenSlices="-2.0"),
    "distance in words": holding(1, SpacingBetweenSlices="near"),
    "no distance": without("SpacingBetweenSlices"),
    "largest SeriesNumber": holding(SeriesNumber=str(2**31 - 1)),
    "negative SeriesNumber": holding(SeriesNumber="-5000"),
    "SeriesNumber in words": holding(SeriesNumber="seven"),
}


@pytest.mark.filterwarnings("ignore:Invalid value for VR")  # pydicom's, about what is wrong here on purpose
@pytest.mark.parametrize("kind", CHANGES)
def test_round_trip(kind: str, tmp_path: Path) -> None:
    source = write_series(tmp_path / "series", step=1.7, change=CHANGES[kind])
    series = read_dicom_series(source.folder)
    check_segmentable(series)
    mask = np.random.default_rng(5).integers(0, 3, tuple(series.image.shape[1:])).astype(np.uint8)
    probability = np.stack([mask == 1, mask == 2]).astype(np.float32)
    write_dicom_seg(tmp_path / "seg.dcm", mask, series, SEGMENTS, **ARGUMENTS)
    write_dicom_probability(tmp_path / "probability.dcm", probability, series, SEGMENTS, **ARGUMENTS)
    np.testing.assert_array_equal(read_dicom_seg(tmp_path / "seg.dcm", series), mask)
    np.testing.assert_array_equal(read_dicom_probability(tmp_path / "probability.dcm", series), probability)
    geometry = highdicom.seg.segread(tmp_path / "seg.dcm").get_volume_geometry()
    np.testing.assert_allclose(geometry.spacing, [1.7, 0.75, 1.25], rtol=2e-5)
    assert_conformant(tmp_path / "seg.dcm")
    assert_conformant(tmp_path / "probability.dcm")


@pytest.mark.filterwarnings("ignore:Invalid value for VR")
@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"PatientSex": "F", "StudyDate": "20240229", "StudyTime": "235959.123456", "PatientAge": "045Y"}, {}),
        ({"PatientAge": "none", "StudyTime": "12"}, {"PatientAge": None}),
        ({"PatientSex": "U"}, {"PatientSex": ""}),
        ({"PatientBirthDate": "19000000", "StudyDate": "20230229"}, {"PatientBirthDate": "", "StudyDate": ""}),
        ({"StudyTime": "2500"}, {"StudyTime": ""}),
        ({"PatientBirthDate": "00010101"}, {}),
        ({"PatientBirthDate": "1960.01.31"}, {"PatientBirthDate": "19600131"}),
        ({"PatientWeight": "70.5", "PatientSize": "tall"}, {"PatientWeight": 70.5, "PatientSize": None}),
        ({"PatientID": "anon-7"}, {}),
        ({"SliceThickness": "3"}, {"SliceThickness": 3, "SpacingBetweenSlices": 2}),
        ({"SliceThickness": "-3"}, {"SliceThickness": 3}),
        ({"SliceThickness": "0", "SpacingBetweenSlices": "4"}, {"SliceThickness": 2, "SpacingBetweenSlices": 2}),
    ],
)
def test_values(values: dict[str, str], expected: dict[str, Any], tmp_path: Path) -> None:
    series = read_dicom_series(write_series(tmp_path / "series", change=holding(**values)).folder)
    header = source_headers(series)[0]
    for name, value in (values | expected).items():
        found = header.get(name)
        assert (found if value is None or isinstance(found, float) else str(found)) == value


def test_grid_is_that_of_the_first_slice(tmp_path: Path) -> None:
    source = write_series(tmp_path / "series", change=tilted_by(9e-5))
    headers = source_headers(read_dicom_series(source.folder))
    for header, position in zip(headers, source.positions, strict=True):
        assert header.ImageOrientationPatient == [1, 0, 0, 0, 1, 0]
        np.testing.assert_allclose(np.array(header.ImagePositionPatient, float), position)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"change": without("FrameOfReferenceUID")}, "has no FrameOfReferenceUID"),
        ({"change": without("StudyInstanceUID", "PatientID")}, "has no StudyInstanceUID"),
        ({"change": without("SOPClassUID")}, "has no SOPClassUID"),
        ({"change": holding(FrameOfReferenceUID="")}, "has no FrameOfReferenceUID"),
        ({"change": holding(2, StudyInstanceUID="1.2.3")}, "StudyInstanceUID 1.2.3"),
        ({"change": holding(SOPClassUID="1.2.840.10008.5.1.4.1.1.66")}, "Raw Data Storage"),
        ({"change": holding(SOPClassUID="1.3.12.2.1107.5.9.1")}, "SOPClassUID 1.3.12.2.1107.5.9.1"),
        ({"shape": (2, 1, 7)}, "1 x 7 pixels; expected 8"),
    ],
)
def test_not_segmentable(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    series = read_dicom_series(write_series(tmp_path / "series", **options).folder)
    mask = np.ones(series.image.shape[1:], np.uint8)
    probability = np.stack([mask, mask]).astype(np.float32)
    for act in (
        lambda: check_segmentable(series),
        lambda: write_dicom_seg(tmp_path / "seg.dcm", mask, series, SEGMENTS, **ARGUMENTS),
        lambda: write_dicom_probability(tmp_path / "seg.dcm", probability, series, SEGMENTS, **ARGUMENTS),
    ):
        with pytest.raises(SeriesError, match=message) as caught:
            act()
        assert str(caught.value).startswith(str(tmp_path / "series" / "IM"))
        assert "expected" in str(caught.value)
    assert not (tmp_path / "seg.dcm").exists()


@pytest.mark.parametrize("columns", range(8, 17))
def test_few_pixels(columns: int, tmp_path: Path) -> None:
    series = read_dicom_series(write_series(tmp_path / "series", shape=(3, 1, columns)).folder)
    mask = np.random.default_rng(columns).integers(0, 3, (columns, 1, 3)).astype(np.uint8)
    write_dicom_seg(tmp_path / "seg.dcm", mask, series, SEGMENTS, **ARGUMENTS)
    np.testing.assert_array_equal(read_dicom_seg(tmp_path / "seg.dcm", series), mask)


def test_files_that_changed_since(tmp_path: Path) -> None:
    source = write_series(tmp_path / "series")
    series = read_dicom_series(source.folder)
    data = pydicom.dcmread(source.paths[3])
    data.SOPInstanceUID = "1.2.3"
    data.save_as(source.paths[3])
    with pytest.raises(SeriesError, match=f"{source.paths[3]}: holds the slice 1.2.3; expected {source.uids[3]}"):
        check_segmentable(series)
    source.paths[3].unlink()
    with pytest.raises(SeriesError, match=f"{source.paths[3]}: cannot be read"):
        check_segmentable(series)
