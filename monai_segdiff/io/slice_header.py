# SPDX-License-Identifier: Apache-2.0
"""What the header of one DICOM slice says about its grid."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..exceptions import SeriesError
from .header_length import header_length

__all__ = ["SliceHeader"]

# Of the length of a cosine vector, and of the product of two: decimals are few in some files.
COSINE_TOLERANCE = 1e-3
EXPECTED = "a slice of one frame and one channel (MONOCHROME2) with its place in the patient"


@dataclass(frozen=True, eq=False)
class SliceHeader:
    """The grid of one slice, in DICOM's own terms: LPS, mm.

    Attributes:
        path: its file.
        instance_uid: SOPInstanceUID.
        modality: Modality.
        frame_of_reference: FrameOfReferenceUID, empty where there is none.
        shape: rows and columns.
        spacing: between rows and between columns (PixelSpacing), [2].
        row: cosines of the direction in which the column index grows, [3].
        column: cosines of the direction in which the row index grows, [3].
        position: centre of the first pixel (ImagePositionPatient), [3].
        thickness: SpacingBetweenSlices without its sign, else SliceThickness, else 0.
    """

    path: Path
    instance_uid: str
    modality: str
    frame_of_reference: str
    shape: tuple[int, int]
    spacing: np.ndarray
    row: np.ndarray
    column: np.ndarray
    position: np.ndarray
    thickness: float

    @classmethod
    def from_dataset(cls, path: Path, header: Any) -> SliceHeader:
        """Read the grid from a header.

        Args:
            path: the file, for messages and to read the pixels later.
            header: its pydicom ``Dataset``; pixels are not needed.

        Raises:
            SeriesError: something of it is missing or cannot be used: several frames, colour, cosines that are none,
                RescaleSlope 0.
        """
        try:
            frames = int(header.get("NumberOfFrames") or 1)
            if frames != 1 or "SharedFunctionalGroupsSequence" in header:
                raise SeriesError(
                    f"{path}: holds {frames} frames (multi-frame or enhanced DICOM); expected {EXPECTED}. Convert it "
                    "to one file to a slice first."
                )
            orientation = np.array(header.ImageOrientationPatient, dtype=np.float64).reshape(6)
            found = cls(
                path=path,
                instance_uid=str(header.SOPInstanceUID),
                modality=str(header.Modality),
                frame_of_reference=str(header.get("FrameOfReferenceUID") or ""),
                shape=(int(header.Rows), int(header.Columns)),
                spacing=np.array(header.PixelSpacing, dtype=np.float64).reshape(2),
                row=orientation[:3],
                column=orientation[3:],
                position=np.array(header.ImagePositionPatient, dtype=np.float64).reshape(3),
                thickness=header_length(header, "SpacingBetweenSlices") or header_length(header, "SliceThickness"),
            )
            colours = (int(header.SamplesPerPixel), str(header.PhotometricInterpretation))
            slope = header.get("RescaleSlope")
            slope = 1.0 if slope is None else float(slope)
        except SeriesError:
            raise
        except (AttributeError, TypeError, ValueError) as error:
            raise SeriesError(f"{path}: the header cannot be used ({error}); expected {EXPECTED}.") from error
        if colours != (1, "MONOCHROME2"):
            raise SeriesError(f"{path}: has {colours[0]} samples per pixel, {colours[1]}; expected {EXPECTED}.")
        if slope == 0:
            raise SeriesError(f"{path}: has the RescaleSlope 0; expected another number, or none at all.")
        cosines = orientation.reshape(2, 3)
        if not (
            np.abs(cosines @ cosines.T - np.eye(2)).max() < COSINE_TOLERANCE
            and np.isfinite(found.position).all()
            and (found.spacing > 0).all()
            and 0 not in found.shape
        ):
            raise SeriesError(
                f"{path}: has {found.shape[0]} x {found.shape[1]} pixels, PixelSpacing {found.spacing.tolist()}, "
                f"ImagePositionPatient {found.position.tolist()} and ImageOrientationPatient {orientation.tolist()}; "
                "expected pixels, two lengths above 0, a point, and two unit vectors at right angles."
            )
        return found
