# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from pydicom import Dataset
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from monai_segdiff.io.header_length import header_length


@pytest.mark.parametrize(
    ("text", "expected"),
    [("2", 2), ("0.5 ", 0.5), ("-3.25", 3.25), ("1e1", 10), ("0", 0), ("", 0)]
    + [(text, 0) for text in ("thin", "inf", "-inf", "nan", "1\\2")],
)
def test_length(text: str, expected: float) -> None:
    data, tag = Dataset(), Tag("SliceThickness")
    data[tag] = RawDataElement(tag, "DS", len(text), text.encode(), 0, False, True)
    assert header_length(data, "SliceThickness") == expected
    assert header_length(data, "SpacingBetweenSlices") == 0
