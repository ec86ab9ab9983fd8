# SPDX-License-Identifier: Apache-2.0
"""The exact outlines of instances."""

from __future__ import annotations

import numpy as np
from monai.config.type_definitions import NdarrayOrTensor
from monai.utils import convert_to_numpy
from scipy import ndimage
from skimage.measure import find_contours, label

__all__ = ["instance_polygons"]

Ring = list[list[int]]


def _outlines(region: np.ndarray, row: int, column: int) -> list[Ring]:
    """The outer ring and then the holes of a boolean ``region`` that lies at ``row`` and ``column`` of its image."""
    # "high": background that touches at a corner alone stays apart, or a ring could touch itself. "low": the direction
    # counts for rows and columns there, for x and y here. The contours are ordered by their smallest points, so the
    # outer one comes first.
    contours = find_contours(
        np.pad(region, 1).astype(np.float64), 0.5, fully_connected="high", positive_orientation="low"
    )
    rings = []
    for contour in contours:
        # The points are the middles of the pixel edges that the ring follows. Where a horizontal edge meets a vertical
        # one the ring turns, and their corner has the row of the former and the column of the latter.
        here, there = contour[:-1], contour[1:]
        horizontal = here[:, :1] % 1 == 0.5
        corners = np.where(horizontal == [True, False], here, there)[(here != there).all(axis=1)]
        # The pixel at index i covers [i, i + 1]; less the padding.
        xy = (corners + (row - 0.5, column - 0.5)).astype(np.int64)[:, ::-1]
        rings.append([*xy.tolist(), xy[0].tolist()])
    return rings


def instance_polygons(instances: NdarrayOrTensor) -> dict[int, list[list[Ring]]]:
    """Outline every instance exactly, along the edges of its pixels.

    Vertices are whole numbers: the pixel in row y and column x covers [x, x + 1] by [y, y + 1]. They are the corners
    alone, so neighbours on a straight edge are left out. Pixels belong together through their sides: a part that
    touches another at a corner is a polygon of its own, and so are two holes that touch at a corner two rings. So no
    ring touches itself, and the polygons are valid in the sense of the OGC's Simple Features.

    Args:
        instances: whole numbers, ``[H, W]``: 0 for background, any positive number for an instance.

    Returns:
        The polygons of every instance, one for each part, in order of the instances. A polygon is a list of rings, the
        outer one and then its holes; a ring is a list of [x, y] that ends with its first one. As RFC 7946 demands, the
        area ``sum(x[i] * y[i + 1] - x[i + 1] * y[i]) / 2`` of outer rings is positive, that of holes is negative.

    Raises:
        ValueError: another shape, an empty map, or other values.

    Example:
        >>> instance_polygons(np.array([[0, 5, 5]]))
        {5: [[[[1, 1], [1, 0], [3, 0], [3, 1], [1, 1]]]]}
    """
    numbers = convert_to_numpy(instances)
    if numbers.ndim != 2 or numbers.size == 0:
        raise ValueError(f"instances has shape {numbers.shape}, expected [H, W], not empty.")
    if numbers.dtype.kind not in "iu" or numbers.min() < 0:
        raise ValueError(
            f"instances is {numbers.dtype} from {numbers.min()} to {numbers.max()}, expected whole numbers from 0 on."
        )
    parts = label(numbers, background=0, connectivity=1)
    polygons: dict[int, list[list[Ring]]] = {}
    for part, box in enumerate(ndimage.find_objects(parts), start=1):
        region = parts[box] == part
        number = int(numbers[box][region][0])
        polygons.setdefault(number, []).append(_outlines(region, box[0].start, box[1].start))
    return dict(sorted(polygons.items()))
