# SPDX-License-Identifier: Apache-2.0
"""Objects from the GeoJSON files that QuPath and this package write."""

from __future__ import annotations

import json
from collections.abc import Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from monai.config import PathLike

from ..exceptions import AnnotationError

__all__ = ["read_geojson"]

MIN_POSITIONS = 4  # of a ring, the first one twice
MAX_COORDINATE = 1e8  # beyond any whole slide, and far from where float64 rounds halves


def read_geojson(path: PathLike, shape: Sequence[int]) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Read objects and fill their polygons into an instance map.

    A pixel belongs to a polygon if its centre lies inside (even-odd rule): the pixel in row y and column x has its
    centre at (x + 0.5, y + 0.5). Polygons that share an edge never share a pixel and leave no gap. The objects are
    drawn in the order of the file, so later ones cover earlier ones, and what lies outside the image is cut off. A map
    of 1..N that :func:`nuclei_to_geojson` described comes back bit for bit.

    A file holds a FeatureCollection, a Feature or a list of Features. Of a cell of QuPath the nucleus is drawn
    (``nucleusGeometry``), of all others the geometry. What is null counts as left out.

    Args:
        path: JSON file, as QuPath exports it.
        shape: height and width of the image in pixels.

    Returns:
        The int32 map ``[H, W]``, 0 for background and i + 1 for ``features[i]``, and the features as the file has
        them. In their ``properties`` the ``measurements`` are always a mapping of names to numbers, though QuPath
        before 0.4 wrote a list; those that QuPath could not make are NaN.

    Raises:
        ValueError: ``shape`` is not two whole numbers above 0.
        AnnotationError: the file cannot be read, is broken JSON or no GeoJSON, or has an object with another geometry
            than Polygon or MultiPolygon, with coordinates that are not closed rings of numbers, or outside the image;
            the message names the file and the feature.

    Example:
        >>> instances, features = read_geojson("nuclei.geojson", (1000, 1000))  # doctest: +SKIP
        >>> features[0]["properties"]["measurements"]["Area px^2"]  # doctest: +SKIP
        312.0
    """
    if len(shape) != 2 or not all(isinstance(size, Real) and size >= 1 and size % 1 == 0 for size in shape):
        raise ValueError(
            f"shape is {tuple(shape)}, expected height and width in pixels, each a whole number of at least 1."
        )
    path = Path(path)
    instances = np.zeros([int(size) for size in shape], dtype=np.int32)
    features = []
    for index, feature in enumerate(_read_features(path)):
        where = f"{path}: feature {index}"
        features.append({**feature, "properties": _properties(where, feature.get("properties"))})
        nucleus = feature.get("nucleusGeometry")
        geometry = feature.get("geometry") if nucleus is None else nucleus
        for rings in _polygons(where, geometry, instances.shape):
            box, inside = _fill(rings, instances.shape)
            instances[box][inside] = index + 1
    return instances, features


def _read_features(path: Path) -> list[dict[str, Any]]:
    expected = "expected a GeoJSON FeatureCollection, a Feature or a list of Features"
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise AnnotationError(f"{path}: cannot be read ({type(error).__name__}: {error}); {expected}.") from error
    if isinstance(content, dict) and content.get("type") == "FeatureCollection":
        content = content.get("features")
    elif isinstance(content, dict):
        content = [content]
    if not isinstance(content, list):
        raise AnnotationError(f"{path}: holds {str(content)[:100]}; {expected}.")
    for index, feature in enumerate(content):
        if not isinstance(feature, dict) or feature.get("type") != "Feature":
            raise AnnotationError(f"{path}: feature {index} is {str(feature)[:100]}; {expected}.")
    return content


def _properties(where: str, found: Any) -> dict[str, Any]:
    """The properties of a feature, which may be null, with its measurements as a mapping."""
    properties = {} if found is None else found
    if not isinstance(properties, dict):
        raise AnnotationError(f"{where}: properties is {str(found)[:100]}, expected an object.")
    listed = properties.get("measurements")
    if listed is None:
        listed = {}
    try:
        pairs = listed.items() if isinstance(listed, dict) else [(item["name"], item["value"]) for item in listed]
        measurements = {str(name): float(value) for name, value in pairs}
    except (KeyError, TypeError, ValueError) as error:
        raise AnnotationError(f"{where}: measurements is {str(listed)[:100]}, expected names and numbers.") from error
    return {**properties, "measurements": measurements}


def _polygons(where: str, geometry: Any, shape: tuple[int, ...]) -> list[list[np.ndarray]]:
    """The polygons of an object, each a list of rings, each float64 ``[N, 2]`` of x and y with its first point last."""
    kind = geometry.get("type") if isinstance(geometry, dict) else None
    if kind not in ("Polygon", "MultiPolygon"):
        raise AnnotationError(f"{where}: the geometry is {str(geometry)[:100]}, expected a Polygon or MultiPolygon.")
    coordinates = geometry.get("coordinates")
    try:
        polygons = [[_ring(ring) for ring in rings] for rings in ([coordinates] if kind == "Polygon" else coordinates)]
        # np.concatenate refuses polygons without rings.
        points = np.concatenate([np.concatenate(rings) for rings in polygons])
    except (TypeError, ValueError) as error:
        raise AnnotationError(
            f"{where}: the coordinates are {str(coordinates)[:100]} ({error}), expected closed rings of at least "
            f"{MIN_POSITIONS} positions in pixels."
        ) from error
    low, high = points.min(axis=0), points.max(axis=0)
    if (high <= 0).any() or (low >= shape[::-1]).any():
        raise AnnotationError(
            f"{where}: lies at x {low[0]:g}..{high[0]:g}, y {low[1]:g}..{high[1]:g}, expected it to meet the image of "
            f"{shape[1]} x {shape[0]} pixels (is this the annotation of another image?)."
        )
    return polygons


def _ring(positions: Any) -> np.ndarray:
    found = np.array(positions)  # no dtype: it would turn text into numbers
    if found.dtype.kind not in "iuf" or found.ndim != 2 or len(found) < MIN_POSITIONS or found.shape[1] < 2:
        raise ValueError(f"{found.dtype} of shape {found.shape}")
    xy = found[:, :2].astype(np.float64)
    if not (np.abs(xy) <= MAX_COORDINATE).all():  # False for NaN as well
        raise ValueError("not finite, or beyond any image")
    if (xy[0] != xy[-1]).any():
        raise ValueError("not closed")
    return xy


def _fill(rings: list[np.ndarray], shape: tuple[int, ...]) -> tuple[tuple[slice, slice], np.ndarray]:
    """The box of the image in which a polygon lies, and a boolean map of its pixels there.

    Every edge is crossed once by each row of pixel centres that it spans; right of a crossing, outside and inside
    change places. ``skimage.draw.polygon`` knows no holes, and takes time with pixels times vertices: too much for the
    outline of a whole tissue.
    """
    points = np.concatenate(rings)
    left, top = np.clip(np.floor(points.min(axis=0)), 0, shape[::-1]).astype(int)
    right, bottom = np.clip(np.ceil(points.max(axis=0)), 0, shape[::-1]).astype(int)
    start = np.concatenate([ring[:-1] for ring in rings])
    end = np.concatenate([ring[1:] for ring in rings])
    # An edge that two polygons share must round alike in both, whatever its direction.
    upward = start[:, 1] > end[:, 1]
    start[upward], end[upward] = end[upward], start[upward]
    first = np.clip(np.ceil(start[:, 1] - 0.5), top, bottom).astype(int)
    counts = np.clip(np.ceil(end[:, 1] - 0.5), top, bottom).astype(int) - first
    edges = np.repeat(np.arange(len(counts)), counts)
    rows = np.arange(len(edges)) - np.repeat(np.cumsum(counts) - counts - first, counts)
    (x0, y0), (x1, y1) = start[edges].T, end[edges].T
    x = x0 + (rows + 0.5 - y0) * (x1 - x0) / (y1 - y0)
    columns = np.clip(np.ceil(x - 0.5), left, right).astype(int)
    crossings = np.zeros((bottom - top, right - left + 1), dtype=bool)
    np.logical_xor.at(crossings, (rows - top, columns - left), True)
    inside = np.logical_xor.accumulate(crossings, axis=1)[:, :-1]
    return (slice(top, bottom), slice(left, right)), inside
