# SPDX-License-Identifier: Apache-2.0
"""Where the voxels of a volume lie."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

__all__ = ["grid_distance"]


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
