# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydicom.sr.codedict import codes

from monai_segdiff.exceptions import BundleError
from monai_segdiff.io.segment_code import CodedTerm, SegmentCode, segments_of_metadata

METADATA = Path(__file__).parents[2] / "bundles" / "hippocampus" / "configs" / "metadata.json"
STRUCTURE = CodedTerm("91723000", "SCT", "Anatomical Structure")
HIPPOCAMPUS = CodedTerm("5366008", "SCT", "Hippocampus")


def test_codes_of_the_hippocampus_bundle() -> None:
    segments = segments_of_metadata(json.loads(METADATA.read_text()), str(METADATA))
    sides = [CodedTerm("255549009", "SCT", "Anterior"), CodedTerm("255551008", "SCT", "Posterior")]
    assert segments == {
        1: SegmentCode("Anterior hippocampus", STRUCTURE, HIPPOCAMPUS, sides[0]),
        2: SegmentCode("Posterior hippocampus", STRUCTURE, HIPPOCAMPUS, sides[1]),
    }
    # They are what DICOM's context groups offer: categories, segments of the nervous system, anatomic modifiers.
    for term, concept in (
        (STRUCTURE, codes.cid7150.AnatomicalStructure),
        (HIPPOCAMPUS, codes.cid7153.Hippocampus),
        (sides[0], codes.cid2.Anterior),
        (sides[1], codes.cid2.Posterior),
    ):
        assert (term.value, term.scheme) == (concept.value, concept.scheme_designator)
        assert term.meaning == concept.meaning


def test_labels_of_the_hippocampus_bundle_are_its_channels() -> None:
    metadata = json.loads(METADATA.read_text())
    channels = metadata["network_data_format"]["outputs"]["pred"]["channel_def"]
    for index, segment in segments_of_metadata(metadata, str(METADATA)).items():
        assert segment.label.lower() == f"{channels[str(index)]} hippocampus"


def test_region() -> None:
    entry = {
        "label": "nuclei",
        "category": {"value": "91723000", "scheme": "SCT", "meaning": "Anatomical Structure"},
        "type": {"value": "84640000", "scheme": "SCT", "meaning": "Nucleus"},
        "region": {"value": "41216001", "scheme": "SCT", "meaning": "Prostate"},
    }
    nuclei = segments_of_metadata({"segments": {"1": entry}}, "here")[1]
    assert nuclei.region == CodedTerm("41216001", "SCT", "Prostate")
    assert nuclei.modifier is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": ""}, "label is ''"),
        ({"label": "  "}, "label is"),
        ({"label": "a" * 65}, "label is 'a*', expected text of 1 to 64"),
        ({"label": "a\\b"}, "without a backslash"),
        ({"label": "a\nb"}, "in one line"),
        ({"label": 7}, "label is 7"),
        ({"category": ("91723000", "SCT", "Anatomical Structure")}, "category is .* expected a CodedTerm"),
        ({"type": None}, "type is None"),
        ({"type": CodedTerm("1" * 17, "SCT", "x")}, "the value of type is '1*', expected text of 1 to 16"),
        ({"type": CodedTerm("1", "S" * 17, "x")}, "the scheme of type"),
        ({"region": CodedTerm("1", "SCT", "x" * 65)}, "the meaning of region"),
        ({"modifier": CodedTerm("", "SCT", "x")}, "the value of modifier"),
    ],
)
def test_bad_code(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SegmentCode(**({"label": "Hippocampus", "category": STRUCTURE, "type": HIPPOCAMPUS} | changes))


TERM = {"value": "1", "scheme": "SCT", "meaning": "x"}
GOOD = {"label": "a", "category": TERM, "type": TERM}


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({}, '"segments" is None; expected the classes'),
        ({"segments": {}}, r'"segments" is \[\]'),
        ({"segments": [GOOD]}, "expected the classes"),
        ({"segments": {"0": GOOD}}, r"is \['0'\]"),
        ({"segments": {"1": GOOD, "3": GOOD}}, r"is \['1', '3'\]"),
        ({"segments": {"1": {"label": "a", "category": TERM}}}, 'segment "1" cannot be used .*type'),
        ({"segments": {"1": {"category": TERM, "type": TERM}}}, "label is ''"),
        ({"segments": {"1": GOOD, "2": GOOD | {"colour": TERM}}}, 'segment "2" cannot be used .*colour'),
        ({"segments": {"1": GOOD | {"type": {"value": "1"}}}}, "scheme.*meaning"),
        ({"segments": {"1": GOOD | {"type": "Hippocampus"}}}, 'segment "1"'),
        ({"segments": {"1": "Hippocampus"}}, 'segment "1"'),
    ],
)
def test_bad_metadata(metadata: dict[str, Any], message: str) -> None:
    with pytest.raises(BundleError, match=message) as caught:
        segments_of_metadata(metadata, "configs/metadata.json")
    assert str(caught.value).startswith("configs/metadata.json: ")
