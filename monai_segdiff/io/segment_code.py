# SPDX-License-Identifier: Apache-2.0
"""What a class means, in codes that other systems know."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from ..exceptions import BundleError

__all__ = ["CodedTerm", "SegmentCode", "segments_of_metadata"]

SHORT, LONG = 16, 64  # characters in DICOM's SH and LO


class CodedTerm(NamedTuple):
    """A term of a coding scheme: value and scheme of up to 16 characters, meaning of up to 64.

    Example:
        >>> CodedTerm("5366008", "SCT", "Hippocampus").scheme
        'SCT'
    """

    value: str
    scheme: str
    meaning: str


@dataclasses.dataclass(frozen=True)
class SegmentCode:
    """The description of one segment of a DICOM segmentation.

    Attributes:
        label: for people, up to 64 characters.
        category: Segmented Property Category, of context group CID 7150.
        type: Segmented Property Type, of CID 7151 or further.
        modifier: which part or side of ``type``, of CID 2 or CID 244.
        region: Anatomic Region, where ``type`` does not imply it.

    Raises:
        ValueError: a text is empty, too long for DICOM, or has a backslash or a line break.

    Example:
        >>> hippocampus = CodedTerm("5366008", "SCT", "Hippocampus")
        >>> structure = CodedTerm("91723000", "SCT", "Anatomical Structure")
        >>> SegmentCode("Hippocampus", structure, hippocampus).type.value
        '5366008'
    """

    label: str
    category: CodedTerm
    type: CodedTerm
    modifier: CodedTerm | None = None
    region: CodedTerm | None = None

    def __post_init__(self) -> None:
        _check_text("label", self.label, LONG)
        for field in dataclasses.fields(self)[1:]:
            term = getattr(self, field.name)
            if term is None and field.default is None:
                continue
            if not isinstance(term, CodedTerm):
                raise ValueError(f"{field.name} is {term!r}, expected a CodedTerm.")
            _check_text(f"the value of {field.name}", term.value, SHORT)
            _check_text(f"the scheme of {field.name}", term.scheme, SHORT)
            _check_text(f"the meaning of {field.name}", term.meaning, LONG)


def segments_of_metadata(metadata: Mapping[str, Any], source: str) -> dict[int, SegmentCode]:
    """Read the entry ``segments`` of a bundle's ``metadata.json``.

    Args:
        metadata: the whole file. Its ``segments`` maps class indices from ``"1"`` on to ``label``, ``category``,
            ``type`` and, optionally, ``modifier`` and ``region``; each of the last four has ``value``, ``scheme`` and
            ``meaning``.
        source: name of the file, for messages.

    Returns:
        The segments by class index.

    Raises:
        BundleError: there is no such entry, or it is not as above.

    Example:
        >>> with open("bundles/hippocampus/configs/metadata.json") as file:
        ...     segments = segments_of_metadata(json.load(file), file.name)
        >>> segments[1].label
        'Anterior hippocampus'
    """
    entry = metadata.get("segments")
    if not isinstance(entry, Mapping) or set(entry) != {str(i + 1) for i in range(len(entry))} or not entry:
        found = sorted(entry) if isinstance(entry, Mapping) else entry
        raise BundleError(
            f'{source}: "segments" is {found}; expected the classes "1", "2", ... with a description each.'
        )
    segments = {}
    for index in range(1, len(entry) + 1):
        try:
            fields = dict(entry[str(index)])
            terms = {name: CodedTerm(**term) for name, term in fields.items() if name != "label"}
            segments[index] = SegmentCode(label=fields.get("label", ""), **terms)
        except (TypeError, ValueError) as error:
            raise BundleError(
                f'{source}: segment "{index}" cannot be used ({error}); expected a label, category and type, and '
                "optionally modifier and region, each of these with value, scheme and meaning."
            ) from error
    return segments


def _check_text(name: str, text: Any, length: int) -> None:
    if not isinstance(text, str) or not 0 < len(text.strip()) <= len(text) <= length or not text.isprintable():
        raise ValueError(f"{name} is {text!r}, expected text of 1 to {length} characters in one line.")
    if "\\" in text:
        raise ValueError(f"{name} is {text!r}, expected text without a backslash.")
