# SPDX-License-Identifier: Apache-2.0
"""Polygons of one Cityscapes image, and what of each is visible."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
from skimage.draw import polygon

from ..exceptions import AnnotationError

__all__ = ["CityscapesAnnotation"]

# Cityscapes gives this label no class number, and so leaves it out of its own label pictures.
TRANSPARENT = "license plate"
MIN_VERTICES = 3
EXPECTED = (
    'expected the JSON of Cityscapes: {"imgHeight", "imgWidth", "objects": [{"label", "polygon": [[x, y], ...]}]}'
)


class CityscapesAnnotation:
    """One ``*_gtFine_polygons.json`` of Cityscapes.

    Cityscapes paints its polygons in the order of the file, so that a later object covers an earlier one. What is
    visible of an object is therefore its polygon without all polygons of later objects. Deleted objects and license
    plates cover nothing. Polygons are filled by ``skimage.draw.polygon`` and clipped to the image.

    Args:
        path: the file.

    Attributes:
        size: height and width of the image in pixels.
        labels: label of each object, in the order of the file; None for a deleted object.

    Raises:
        AnnotationError: when the file is missing, damaged or of another structure.

    Example:
        >>> annotation = CityscapesAnnotation("zurich_000000_000019_gtFine_polygons.json")  # doctest: +SKIP
        >>> index = annotation.labels.index("bus")  # doctest: +SKIP
        >>> (top, left), mask = annotation.visible(index)  # doctest: +SKIP
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        content = _read(self.path)
        self.size: tuple[int, int] = (content["imgHeight"], content["imgWidth"])
        objects = content["objects"]
        self.labels: list[str | None] = [None if item.get("deleted") else item["label"] for item in objects]
        self._polygons = [_vertices(self.path, i, item["polygon"]) for i, item in enumerate(objects)]

    def visible(self, index: int) -> tuple[tuple[int, int], np.ndarray] | None:
        """Give the visible part of an object.

        Args:
            index: place of the object in the file, from 0.

        Returns:
            Row and column of the upper left corner of the smallest box around the part, and the part, bool of the size
            of that box; None when nothing is visible.
        """
        start, stop = self._window(index)
        if (start >= stop).any():
            return None
        mask = self._fill(index, start, stop)
        for later in range(index + 1, len(self.labels)):
            if self.labels[later] in (None, TRANSPARENT):
                continue
            other_start, other_stop = self._window(later)
            if (np.maximum(start, other_start) < np.minimum(stop, other_stop)).all():
                mask &= ~self._fill(later, start, stop)
        if not mask.any():
            return None
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        box = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        return (int(start[0] + rows[0]), int(start[1] + columns[0])), box

    def _window(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows and columns, from and to (not included), in which a polygon can have pixels."""
        vertices = self._polygons[index]
        if len(vertices) < MIN_VERTICES:
            return np.zeros(2, int), np.zeros(2, int)
        start = np.maximum(np.floor(vertices.min(axis=0)), 0)
        stop = np.minimum(np.ceil(vertices.max(axis=0)) + 1, self.size)
        return start.astype(int), stop.astype(int)

    def _fill(self, index: int, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
        mask = np.zeros(stop - start, dtype=bool)
        rows, columns = (self._polygons[index] - start).T
        mask[polygon(rows, columns, shape=mask.shape)] = True
        return mask


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise AnnotationError(f"{path}: cannot be read ({type(error).__name__}: {error}); {EXPECTED}.") from error
    if not isinstance(content, dict):
        raise AnnotationError(f"{path}: holds a {type(content).__name__}; {EXPECTED}.")
    for name in ("imgHeight", "imgWidth"):
        if type(content.get(name)) is not int or content[name] < 1:
            raise AnnotationError(f"{path}: {name} is {content.get(name)!r}; {EXPECTED}.")
    if not isinstance(content.get("objects"), list):
        raise AnnotationError(f"{path}: objects is a {type(content.get('objects')).__name__}; {EXPECTED}.")
    for i, item in enumerate(content["objects"]):
        if not isinstance(item, dict) or not isinstance(item.get("label"), str) or "polygon" not in item:
            raise AnnotationError(f"{path}: object {i} is {str(item)[:100]}; {EXPECTED}.")
    return content


def _vertices(path: Path, index: int, points: Any) -> np.ndarray:
    """Row and column of each vertex, float64 [N, 2]."""
    try:
        pairs = [(float(y), float(x)) for x, y in points]
    except (TypeError, ValueError):
        pairs = [(math.nan, math.nan)]
    vertices = np.array(pairs, dtype=np.float64).reshape(-1, 2)
    if not np.isfinite(vertices).all():
        raise AnnotationError(f"{path}: the polygon of object {index} is {str(points)[:100]}; {EXPECTED}.")
    return vertices
