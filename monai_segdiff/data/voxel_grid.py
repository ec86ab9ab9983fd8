# SPDX-License-Identifier: Apache-2.0
"""Where the voxels of a volume lie."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from ..exceptions import ImageError

__all__ = ["check_affine", "grid_distance"]

# Of the volume that the columns of the affine would span at right angles; below it, voxels are flat by rounding only.
MIN_DETERMINANT = 1e-6
SPACING = 1e-3, 50.0  # mm


def check_affine(affine: np.ndarray, name: object) -> None:
    """Refuse an affine that places no volume.

    Args:
        affine: voxel to world, in mm.
        name: what the volume is called in messages.

    Raises:
        ImageError: another shape than [4, 4], NaN or infinity, axes in one plane, or voxels of a size that is none in
            mm, which a resampling could blow up beyond all memory.
    """
    affine = np.asarray(affine, dtype=np.float64)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if affine.shape != (4, 4) or not np.isfinite(affine).all():
        raise ImageError(f"{name}: has the affine {affine.tolist()}; expected [4, 4] finite numbers.")
    if abs(np.linalg.det(affine[:3, :3])) <= MIN_DETERMINANT * spacing.prod():
        raise ImageError(
            f"{name}: has the affine {affine.tolist()}, whose axes do not span a space; expected a valid one."
        )
    if not (SPACING[0] <= spacing.min() and spacing.max() <= SPACING[1]):
        raise ImageError(
            f"{name}: has voxels of {' x '.join(f'{edge:g}' for edge in spacing)} mm; expected {SPACING[0]:g} to "
            f"{SPACING[1]:g} (are they in another unit?)."
        )


def grid_distance(affine: np.ndarray, other: np.ndarray, shape: Sequence[int]) -> float:
    r"""Measure how far two grids of one size are apart.

    With the affines :math:`A` and :math:`B` this is :math:`\max_c \max_i |(A^{-1} B c - c)_i|` over the corners
    :math:`c` of the grid; no voxel in between is farther off.

    Args:
        affine: affine of the grid in whose voxels the distance is measured, [4, 4], invertible.
        other: affine of the other grid, [4, 4].
        shape: number of voxels along each axis, for both.

    Returns:
        The distance in voxels; 0 for equal grids.

    Example:
        >>> grid_distance(np.diag([2.0, 2.0, 2.0, 1.0]), np.diag([2.0, 2.0, 2.2, 1.0]), (9, 9, 11))
        1.0
    """
    corners = np.array([(*corner, 1) for corner in itertools.product(*((0, n - 1) for n in shape))]).T
    moved = np.linalg.solve(np.asarray(affine, dtype=np.float64), np.asarray(other, dtype=np.float64) @ corners)
    return float(np.abs(moved - corners).max())
