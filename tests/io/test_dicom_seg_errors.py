# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pydicom
import pytest

from monai_segdiff.io.dicom_seg import write_dicom_probability, write_dicom_seg

sys.path.insert(0, str(Path(__file__).parent))
from synthetic_seg import ARGUMENTS, ORIGIN, SEGMENTS, make  # noqa: E402

BAD_MASKS: list[tuple[Any, str]] = [
    (lambda mask: mask.transpose(1, 0, 2), r"shape \[6, 9, 5\] and the type uint8; expected uint8 .*\[9, 6, 5\]"),
    (lambda mask: mask[None], r"shape \[1, 9, 6, 5\]"),
    (lambda mask: mask[..., 1:], r"shape \[9, 6, 4\]"),
    (lambda mask: mask.astype(np.int64), "type int64"),
    (lambda mask: mask.astype(np.float32), "type float32"),
    (lambda mask: mask + np.uint8(2), r"labels \[3, 4\]; expected 0 and those of segments, \[1, 2\]"),
]


@pytest.mark.parametrize(("change", "message"), BAD_MASKS)
def test_bad_mask(change: Any, message: str, tmp_path: Path) -> None:
    _, series, mask = make(tmp_path)
    with pytest.raises(ValueError, match=message):
        write_dicom_seg(tmp_path / "seg.dcm", change(mask), series, SEGMENTS, **ARGUMENTS)
    assert not (tmp_path / "seg.dcm").exists()


@pytest.mark.parametrize(
    ("value", "shape", "message"),
    [
        (np.nan, (2, 9, 6, 5), "holds 1 values that are NaN or outside"),
        (np.inf, (2, 9, 6, 5), "holds 1 values"),
        (1.001, (2, 9, 6, 5), "holds 1 values"),
        (-0.001, (2, 9, 6, 5), "holds 1 values"),
        (0.0, (3, 9, 6, 5), r"shape \[3, 9, 6, 5\] .*expected float32 \[2, 9, 6, 5\]: the segments without background"),
        (0.0, (9, 6, 5), r"shape \[9, 6, 5\]"),
        (0.0, (2, 6, 9, 5), r"shape \[2, 6, 9, 5\]"),
    ],
)
def test_bad_probability(value: float, shape: tuple[int, ...], message: str, tmp_path: Path) -> None:
    _, series, _ = make(tmp_path)
    probability = np.full(shape, 0.5, np.float32)
    probability.flat[3] = value
    with pytest.raises(ValueError, match=message):
        write_dicom_probability(tmp_path / "seg.dcm", probability, series, SEGMENTS, **ARGUMENTS)
    with pytest.raises(ValueError, match="type float64"):
        write_dicom_probability(tmp_path / "seg.dcm", probability.astype(float), series, SEGMENTS, **ARGUMENTS)
    assert not (tmp_path / "seg.dcm").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"segments": {}}, r"classes \[\]; expected 1, 2"),
        ({"segments": {0: SEGMENTS[1]}}, r"classes \[0\]"),
        ({"segments": {1: SEGMENTS[1], 3: SEGMENTS[2]}}, r"classes \[1, 3\]; expected 1, 2, ... without a gap"),
        ({"algorithm": ""}, "algorithm is ''"),
        ({"algorithm": "a" * 65}, "algorithm is 'a*'; expected 1 to 64"),
        ({"description": "a\\b"}, "description is .*without a backslash"),
        ({"description": "a\nb"}, "description is .*in one line"),
        ({"provenance": {}}, r"provenance lacks \['bundle', .*'settings'\]; expected \['bundle'"),
        ({"provenance": SimpleNamespace(**(ORIGIN | {"seed": None}))}, r"provenance lacks \['seed'\]"),
    ],
)
def test_bad_arguments(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    _, series, mask = make(tmp_path)
    arguments: dict[str, Any] = {"segments": SEGMENTS, "description": "x", **ARGUMENTS, **changes}
    with pytest.raises(ValueError, match=message):
        write_dicom_seg(tmp_path / "seg.dcm", mask * 0, series, **arguments)
    probability = np.zeros((len(arguments["segments"]), *mask.shape), np.float32)
    with pytest.raises(ValueError, match=message):
        write_dicom_probability(tmp_path / "seg.dcm", probability, series, **arguments)
    assert not (tmp_path / "seg.dcm").exists()


def test_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, series, mask = make(tmp_path)
    path = tmp_path / "out" / "seg.dcm"
    write_dicom_seg(path, mask, series, SEGMENTS, **ARGUMENTS)
    before = path.read_bytes()

    def fail(self: pydicom.Dataset, filename: Path, *_: Any, **__: Any) -> None:
        Path(filename).write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(pydicom.Dataset, "save_as", fail)
    with pytest.raises(OSError, match="no space left"):
        write_dicom_seg(path, mask * 0, series, SEGMENTS, **ARGUMENTS)
    assert [file.name for file in path.parent.iterdir()] == ["seg.dcm"]
    assert path.read_bytes() == before
