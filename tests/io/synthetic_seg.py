# SPDX-License-Identifier: Apache-2.0
"""What the tests of DICOM segmentations share: descriptions, a provenance, kinds of series."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from monai_segdiff.io.dicom_series import DicomSeries, read_dicom_series
from monai_segdiff.io.segment_code import CodedTerm, SegmentCode

sys.path.insert(0, str(Path(__file__).parent))
from synthetic_series import SyntheticSeries, write_series  # noqa: E402

__all__ = ["ARGUMENTS", "HIPPOCAMPUS", "KINDS", "ORIGIN", "SEGMENTS", "STRUCTURE", "assert_conformant", "make"]

STRUCTURE = CodedTerm("91723000", "SCT", "Anatomical Structure")
HIPPOCAMPUS = CodedTerm("5366008", "SCT", "Hippocampus")
SEGMENTS = {
    1: SegmentCode("Anterior hippocampus", STRUCTURE, HIPPOCAMPUS, CodedTerm("255549009", "SCT", "Anterior")),
    2: SegmentCode("Hippocampe postérieur", STRUCTURE, HIPPOCAMPUS, region=CodedTerm("12738006", "SCT", "Brain")),
}
ORIGIN = {
    "bundle": "hippocampus",
    "bundle_version": "0.1.0",
    "weights_sha256": "0123456789abcdef" * 4,
    "package_version": "0.2.0",
    "torch_version": "2.13.0",
    "device": "cpu",
    "settings": {"num_inference_steps": 10, "roi_size": [32, 48]},
    "seed": 7,
}
ARGUMENTS = {"algorithm": "DDPS", "provenance": ORIGIN}
KINDS: dict[str, dict[str, Any]] = {
    "axial MR": {},
    "sagittal CT": {"plane": "sagittal", "modality": "CT", "slope": 2.0, "intercept": -1024.0},
    "oblique": {"plane": "oblique"},
    "reversed": {"plane": "double oblique", "reverse": True},
    "gapped": {"plane": "oblique", "step": 4.5, "thickness": 3.0},
    "without thickness": {"modality": "CT", "thickness": None},
    "odd number of bits": {"shape": (3, 5, 3)},
    "one slice": {"shape": (1, 5, 3)},
}


def make(folder: Path, kind: str = "axial MR") -> tuple[SyntheticSeries, DicomSeries, np.ndarray]:
    """A series, the same read, and a random mask [X, Y, Z] of which the second slice is empty."""
    series = write_series(folder / "series", **KINDS[kind])
    slices, rows, columns = series.stored.shape
    mask = np.random.default_rng(5).integers(0, 3, (columns, rows, slices)).astype(np.uint8)
    mask[:, :, 1:2] = 0
    return series, read_dicom_series(series.folder), mask


def assert_conformant(path: Path) -> None:
    """No error of ``dciodvfy`` (Debian: dicom3tools), where it is installed."""
    if shutil.which("dciodvfy") is None:
        return
    report = subprocess.run(["dciodvfy", "-new", path], capture_output=True, text=True, check=False)
    assert "Segmentation" in report.stderr, "it was recognised"
    assert [line for line in report.stderr.splitlines() if line.startswith("Error")] == []
