# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from monai_segdiff.exceptions import SeriesError
from monai_segdiff.io.slice_header import SliceHeader

PATH = Path("series/IM1")
VALUES = {
    "SOPInstanceUID": "1.2.3",
    "Modality": "MR",
    "Rows": 4,
    "Columns": 5,
    "PixelSpacing": ["0.5", "2"],
    "ImageOrientationPatient": ["0", "1", "0", "0", "0", "-1"],
    "ImagePositionPatient": ["1.5", "-2", "3"],
    "SamplesPerPixel": 1,
    "PhotometricInterpretation": "MONOCHROME2",
}


def dataset(**changes: Any) -> Dataset:
    data = Dataset()
    for name, value in (VALUES | changes).items():
        setattr(data, name, value)
    return data


def test_values() -> None:
    found = SliceHeader.from_dataset(PATH, dataset(FrameOfReferenceUID="1.9"))
    assert (found.path, found.instance_uid, found.modality) == (PATH, "1.2.3", "MR")
    assert (found.frame_of_reference, found.shape) == ("1.9", (4, 5))
    for array, expected in (
        (found.spacing, [0.5, 2]),
        (found.row, [0, 1, 0]),
        (found.column, [0, 0, -1]),
        (found.position, [1.5, -2, 3]),
    ):
        assert array.dtype == np.float64
        np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 0),
        ({"SliceThickness": "2"}, 2),
        ({"SpacingBetweenSlices": "3"}, 3),
        ({"SliceThickness": "2", "SpacingBetweenSlices": "3"}, 3),
        ({"SliceThickness": "2", "SpacingBetweenSlices": None}, 2),
        ({"SliceThickness": None}, 0),
        ({"SliceThickness": "2", "SpacingBetweenSlices": "-3"}, 3),
        ({"SliceThickness": "2", "SpacingBetweenSlices": "0"}, 2),
    ],
)
def test_thickness(changes: dict[str, Any], expected: float) -> None:
    assert SliceHeader.from_dataset(PATH, dataset(**changes)).thickness == expected


@pytest.mark.parametrize("slope", ["2", "-0.5", None])
def test_slope(slope: str | None) -> None:
    assert SliceHeader.from_dataset(PATH, dataset(RescaleSlope=slope)).shape == (4, 5)


@pytest.mark.parametrize("slope", ["0", "0.0", "-0"])
def test_slope_of_nothing(slope: str) -> None:
    with pytest.raises(SeriesError, match="^series/IM1: has the RescaleSlope 0; expected another"):
        SliceHeader.from_dataset(PATH, dataset(RescaleSlope=slope))


@pytest.mark.parametrize("frames", [1, None])
def test_one_frame_that_says_so(frames: int | None) -> None:
    assert SliceHeader.from_dataset(PATH, dataset(NumberOfFrames=frames)).shape == (4, 5)


@pytest.mark.parametrize("frames", [2, 1, None])
def test_multi_frame(frames: int | None) -> None:
    data = dataset(NumberOfFrames=frames)
    if frames != 2:
        data.SharedFunctionalGroupsSequence = []  # an enhanced image of one frame
    del data.ImagePositionPatient  # is in the functional groups
    with pytest.raises(SeriesError, match=f"^series/IM1: holds {frames or 1} frames .multi-frame or enhanced"):
        SliceHeader.from_dataset(PATH, data)


def garbled(name: str) -> Dataset:
    data = dataset(SliceThickness="2")
    vr, value = ("IS", b"a ") if name == "NumberOfFrames" else ("DS", b"1\\x ")
    data[name] = RawDataElement(Tag(name), vr, len(value), value, 0, False, True)
    return data


@pytest.mark.parametrize("name", ["SpacingBetweenSlices", "SliceThickness"])
def test_garbled_thickness_may_not_be_needed(name: str) -> None:
    expected = 2 if name == "SpacingBetweenSlices" else 0
    assert SliceHeader.from_dataset(PATH, garbled(name)).thickness == expected


@pytest.mark.filterwarnings("ignore:Invalid value for VR IS")  # pydicom's, about what is wrong here on purpose
@pytest.mark.parametrize("name", ["NumberOfFrames", "PixelSpacing", "ImagePositionPatient", "RescaleSlope"])
def test_garbled_number(name: str) -> None:
    data = garbled(name)
    with pytest.raises(SeriesError, match="^series/IM1: the header cannot be used"):
        SliceHeader.from_dataset(PATH, data)


@pytest.mark.parametrize("missing", VALUES)
def test_missing_element(missing: str) -> None:
    data = dataset()
    delattr(data, missing)
    with pytest.raises(SeriesError, match=rf"^series/IM1: .*{missing}.* expected a slice"):
        SliceHeader.from_dataset(PATH, data)


@pytest.mark.parametrize("empty", ["Rows", "PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient"])
def test_empty_element(empty: str) -> None:
    with pytest.raises(SeriesError, match="^series/IM1: .*expected"):
        SliceHeader.from_dataset(PATH, dataset(**{empty: None}))
