# SPDX-License-Identifier: Apache-2.0
"""Slices of one DICOM series in their order, as one regular grid."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..exceptions import SeriesError
from .slice_header import SliceHeader

__all__ = ["stack_slices"]

SAME_PLACE = 1e-3  # mm
# Of a voxel. Positions are rounded to 0.01 mm in some files, which is 2 % of 0.5 mm.
POSITION_TOLERANCE = 0.05
# Radians, unless the first and the last slice are within POSITION_TOLERANCE all the same, as a few slices with rounded
# positions are. A gantry is tilted by degrees, and cosines of four decimals are off by 1e-4.
SHEAR_TOLERANCE = 1e-3
SAME = 1e-4  # of spacing and cosines, relative and absolute


def stack_slices(headers: Sequence[SliceHeader], folder: Path) -> tuple[list[SliceHeader], np.ndarray]:
    r"""Sort slices along their normal, and find the affine of the volume that they are.

    With the cosines :math:`r` and :math:`c` of the rows and columns, PixelSpacing :math:`(s_r, s_c)` and the positions
    :math:`p_0 \dots p_{n-1}` in order of :math:`p_k \cdot (r \times c)`, the voxel :math:`(i, j, k)` (column, row,
    slice) lies at

    .. math:: L \left( p_0 + r s_c\, i + c\, s_r\, j + \frac{p_{n-1} - p_0}{n - 1}\, k \right)

    with :math:`L = \mathrm{diag}(-1, -1, 1)`, from DICOM's LPS to RAS. The distance of slices comes from their
    positions alone, as SliceThickness and SpacingBetweenSlices may say otherwise; only a single slice, which has no
    neighbour, is as thick as these say.

    Slices that are shifted in their plane (a tilted gantry) are refused. A sheared affine could hold them, but
    neither ITK's images nor the qform of NIfTI can, and the spacing of the volume would not be its resolution.

    Args:
        headers: the slices of one series, in any order; at least one.
        folder: their folder, for messages.

    Returns:
        The slices in order, and the affine from voxels to RAS in mm, float64 [4, 4].

    Raises:
        SeriesError: a slice is missing or double, or the slices differ or are shifted.
    """
    _check_same(headers, folder)
    row, column = headers[0].row, headers[0].column
    normal = np.cross(row, column)
    slices = sorted(headers, key=lambda header: float(header.position @ normal))
    positions = np.array([header.position for header in slices])
    affine = np.eye(4)
    affine[:3, 0] = row * headers[0].spacing[1]
    affine[:3, 1] = column * headers[0].spacing[0]
    affine[:3, 2] = normal * slices[0].thickness
    affine[:3, 3] = positions[0]
    if len(slices) > 1:
        _check_gaps(slices, positions @ normal, folder)
        affine[:3, 2] = (positions[-1] - positions[0]) / (len(slices) - 1)
        _check_line(positions, affine, normal, folder)
    elif not slices[0].thickness > 0:
        raise SeriesError(
            f"{slices[0].path}: is the only slice, without SpacingBetweenSlices and SliceThickness; expected one of "
            "them, or further slices."
        )
    return slices, np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def _check_same(headers: Sequence[SliceHeader], folder: Path) -> None:
    first = headers[0]
    for header in headers[1:]:
        for name in ("modality", "shape", "frame_of_reference", "spacing", "row", "column"):
            one, other = getattr(first, name), getattr(header, name)
            same = np.allclose(one, other, rtol=SAME, atol=SAME) if isinstance(one, np.ndarray) else one == other
            if not same:
                raise SeriesError(
                    f"{folder}: the slices of one series differ: {first.path.name} has the {name} {one}, "
                    f"{header.path.name} has {other}; expected slices of one grid (is a localizer among them?)."
                )


def _check_gaps(slices: Sequence[SliceHeader], heights: np.ndarray, folder: Path) -> None:
    gaps = np.diff(heights)
    double = int(np.argmin(gaps))
    if gaps[double] <= SAME_PLACE:
        raise SeriesError(
            f"{folder}: {slices[double].path.name} and {slices[double + 1].path.name} lie at one position, "
            f"{slices[double].position.tolist()}; expected one slice to a position (several time points or echoes?)."
        )
    # The lower median: of two gaps, the one without a missing slice.
    usual = float(np.sort(gaps)[(len(gaps) - 1) // 2])
    worst = int(np.argmax(np.abs(gaps - usual)))
    if abs(gaps[worst] - usual) > POSITION_TOLERANCE * usual:
        raise SeriesError(
            f"{folder}: {slices[worst].path.name} and {slices[worst + 1].path.name} are {gaps[worst]:.6g} mm apart, "
            f"most slices {usual:.6g} mm; expected {len(slices)} slices at equal distances (is a slice missing "
            "between these two?)."
        )


def _check_line(positions: np.ndarray, affine: np.ndarray, normal: np.ndarray, folder: Path) -> None:
    step = affine[:3, 2]
    sideways = step - (step @ normal) * normal
    angle = float(np.linalg.norm(sideways) / np.linalg.norm(step))
    whole = float(np.linalg.norm(sideways)) * (len(positions) - 1)
    pixel = float(np.linalg.norm(affine[:3, :2], axis=0).min())
    if angle > SHEAR_TOLERANCE and whole > POSITION_TOLERANCE * pixel:
        raise SeriesError(
            f"{folder}: the slices are shifted in their plane, by {np.linalg.norm(sideways):.6g} mm from one to the "
            f"next ({np.degrees(np.arcsin(min(angle, 1))):.3g} degrees, a tilted gantry); expected slices one above "
            "the other. Resample the series first."
        )
    placed = positions[0] + np.arange(len(positions))[:, None] * step
    off = np.abs(np.linalg.solve(affine[:3, :3], (positions - placed).T)).max(axis=0)
    worst = int(np.argmax(off))
    if off[worst] > POSITION_TOLERANCE:
        raise SeriesError(
            f"{folder}: slice {worst + 1} of {len(positions)} lies {off[worst]:.3g} voxels off the regular grid of "
            "the first and the last; expected slices at equal distances along a straight line."
        )
