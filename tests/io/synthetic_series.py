# SPDX-License-Identifier: Apache-2.0
"""Small MR and CT series written by pydicom alone, with all that is expected of them computed by hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import FileDataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

__all__ = ["PLANES", "SyntheticSeries", "write_series"]

AXIAL = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
SAGITTAL = ((0.0, 1.0, 0.0), (0.0, 0.0, -1.0))


def tilted(degrees: float, further: float = 0.0) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Cosines of an axial plane after a turn about x, and then one about z."""
    a, b = np.radians([degrees, further])
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    row, column, _ = (about_z @ about_x).T
    return tuple(map(float, row)), tuple(map(float, column))


PLANES = {"axial": AXIAL, "sagittal": SAGITTAL, "oblique": tilted(12), "double oblique": tilted(20, -10)}


@dataclasses.dataclass(frozen=True)
class SyntheticSeries:
    """What was written: slice k of ``stored`` [K, rows, columns] lies at ``positions[k]`` (LPS, mm) in ``paths[k]``."""

    folder: Path
    stored: np.ndarray
    positions: np.ndarray
    row: np.ndarray  # cosines of the direction in which the column index grows
    column: np.ndarray
    spacing: tuple[float, float]  # between rows, between columns
    slope: float
    intercept: float
    paths: list[Path]
    uids: list[str]

    def world(self, k: int, r: int, c: int) -> np.ndarray:
        """RAS of the pixel in row r and column c of slice k: equation C.7.6.2.1-1 of DICOM part 3, then LPS to RAS."""
        lps = self.positions[k] + self.row * self.spacing[1] * c + self.column * self.spacing[0] * r
        return lps * [-1, -1, 1]


def write_series(
    folder: Path,
    *,
    modality: str = "MR",
    plane: str = "axial",
    shape: tuple[int, int, int] = (5, 6, 9),
    spacing: tuple[float, float] = (0.75, 1.25),
    step: float = 2.0,
    thickness: float | None = 2.0,
    reverse: bool = False,
    signed: bool = False,
    slope: float = 1.0,
    intercept: float = 0.0,
    series_uid: str | None = None,
    prefix: str = "IM",
    seed: int = 0,
    change: Callable[[int, FileDataset], Any] | None = None,
) -> SyntheticSeries:
    """Write one file to a slice, named and numbered in an order that has nothing to do with their positions.

    ``reverse``: InstanceNumber falls along the normal of the slices. ``change`` may alter slice k before it is written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    low, high = (-2000, 2000) if signed else (0, 4000)
    stored = generator.integers(low, high, shape).astype(np.int16 if signed else np.uint16)
    row, column = (np.array(cosines) for cosines in PLANES[plane])
    positions = np.array([-31.5, 12.25, 40.125]) + np.arange(shape[0])[:, None] * step * np.cross(row, column)
    series_uid = series_uid or generate_uid()
    shared = {"study": generate_uid(), "frame": generate_uid()}
    names = generator.permutation(shape[0])
    numbers = np.arange(shape[0], 0, -1) if reverse else generator.permutation(shape[0]) + 1
    paths, uids = [], []
    for k in range(shape[0]):
        path = folder / f"{prefix}{names[k]:04d}.dcm"
        uid = generate_uid()
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = CTImageStorage if modality == "CT" else MRImageStorage
        meta.MediaStorageSOPInstanceUID = uid
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data = FileDataset(path, {}, file_meta=meta, preamble=b"\0" * 128)
        data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, uid
        data.StudyInstanceUID, data.SeriesInstanceUID = shared["study"], series_uid
        data.FrameOfReferenceUID, data.PositionReferenceIndicator = shared["frame"], ""
        data.Modality, data.SeriesNumber, data.InstanceNumber = modality, 7, int(numbers[k])
        data.PatientName, data.PatientID, data.PatientBirthDate, data.PatientSex = "Synthetic^Series", "S1", "", "O"
        data.StudyDate = data.SeriesDate = "20200102"
        data.StudyTime = data.SeriesTime = "030405"
        data.StudyID, data.AccessionNumber, data.ReferringPhysicianName = "1", "", ""
        data.Manufacturer = "None"
        data.SeriesDescription = "synthetic"
        data.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL" if modality == "CT" else "M"]
        data.ImageOrientationPatient = [f"{value:.12g}" for value in (*row, *column)]
        data.ImagePositionPatient = [f"{value:.12g}" for value in positions[k]]
        data.PixelSpacing = [str(value) for value in spacing]
        data.SliceThickness = None if thickness is None else str(thickness)
        if modality == "MR":
            data.SpacingBetweenSlices = str(step)
        data.Rows, data.Columns = shape[1:]
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
        data.PixelRepresentation = int(signed)
        if (slope, intercept) != (1.0, 0.0) or modality == "CT":
            data.RescaleSlope, data.RescaleIntercept, data.RescaleType = str(slope), str(intercept), "US"
        data.PixelData = stored[k].astype("<i2" if signed else "<u2").tobytes()
        if change is not None:
            change(k, data)
        data.save_as(path)
        paths.append(path)
        uids.append(str(uid))
    return SyntheticSeries(folder, stored, positions, row, column, spacing, slope, intercept, paths, uids)
