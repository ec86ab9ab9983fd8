# SPDX-License-Identifier: Apache-2.0
"""Nuclei as GeoJSON that QuPath imports."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from monai.config import PathLike
from monai.config.type_definitions import NdarrayOrTensor
from monai.utils import convert_to_numpy
from scipy import ndimage

from ..data.atomic_write import atomic_write
from .instance_polygons import instance_polygons

__all__ = ["nuclei_to_geojson", "write_geojson"]

DECIMALS = 6  # of a measurement; float32 holds no more


def nuclei_to_geojson(
    instances: NdarrayOrTensor,
    probability: NdarrayOrTensor | None = None,
    uncertainty: NdarrayOrTensor | None = None,
    *,
    name: str = "Nucleus",
    color: Sequence[int] = (240, 228, 66),
    pixel_size: float | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Describe every instance as a detection of QuPath, with its exact outline (see :func:`instance_polygons`).

    The result is a GeoJSON FeatureCollection (RFC 7946), in the form that QuPath 0.4 and later reads and writes. It
    has a Feature for each instance, in the order of their numbers. Its coordinates are pixels of the image with x to
    the right and y down, as QuPath has them at full resolution. Its ``id`` is a UUID made from its content: equal
    input gives an equal result.

    The measurements of a feature, to six decimals, have names like QuPath's own:

    - ``Area px^2``: the number of its pixels;
    - ``Area µm^2``: the same in square micrometres, if ``pixel_size`` is given;
    - ``Probability: Mean``: the mean of ``probability`` over its pixels, if given;
    - ``Uncertainty (nats): Mean``: the mean of ``uncertainty`` over its pixels, if given.

    Args:
        instances: whole numbers, ``[H, W]``: 0 for background, any positive number for an instance.
        probability: foreground probability, ``[H, W]``, from 0 to 1.
        uncertainty: predictive entropy in nats, ``[H, W]``.
        name: the classification that the objects get in QuPath.
        color: red, green and blue of that classification, each from 0 to 255.
        pixel_size: side of a pixel in micrometres.
        provenance: what made the instances, as JSON has it; becomes the member ``provenance`` of the collection,
            which QuPath ignores.

    Returns:
        The FeatureCollection, ready for :func:`write_geojson`.

    Raises:
        ValueError: ``instances`` is no instance map, another map has another shape or is not finite within an
            instance, ``name`` is empty, ``color`` is no colour, or ``pixel_size`` is not above 0 and finite.

    Example:
        >>> collection = nuclei_to_geojson(np.array([[0, 1, 1]]), pixel_size=0.5)
        >>> collection["features"][0]["properties"]["measurements"]
        {'Area px^2': 2.0, 'Area µm^2': 0.5}
    """
    if not isinstance(name, str) or not name.strip():
        raise ValueError(f"name is {name!r}, expected the name of a class.")
    if len(color) != 3 or any(value not in range(256) for value in color):
        raise ValueError(f"color is {color!r}, expected three whole numbers from 0 to 255.")
    if pixel_size is not None and not 0 < pixel_size < np.inf:
        raise ValueError(f"pixel_size is {pixel_size!r}, expected a number of micrometres above 0.")
    polygons = instance_polygons(instances)
    labels, numbers = convert_to_numpy(instances), list(polygons)
    columns = {"Area px^2": ndimage.sum_labels(labels > 0, labels, numbers)}
    if pixel_size is not None:
        columns["Area µm^2"] = columns["Area px^2"] * pixel_size**2
    if probability is not None:
        columns["Probability: Mean"] = _means("probability", probability, labels, numbers)
    if uncertainty is not None:
        columns["Uncertainty (nats): Mean"] = _means("uncertainty", uncertainty, labels, numbers)

    features = []
    for index, parts in enumerate(polygons.values()):
        geometry = (
            {"type": "Polygon", "coordinates": parts[0]}
            if len(parts) == 1
            else {"type": "MultiPolygon", "coordinates": parts}
        )
        properties = {
            "objectType": "detection",
            "classification": {"name": name, "color": [int(value) for value in color]},
            "measurements": {key: round(float(values[index]), DECIMALS) for key, values in columns.items()},
        }
        identity = uuid.uuid5(uuid.NAMESPACE_OID, json.dumps([geometry, properties]))
        features.append({"type": "Feature", "id": str(identity), "geometry": geometry, "properties": properties})
    collection: dict[str, Any] = {"type": "FeatureCollection", "features": features}
    if provenance is not None:
        collection["provenance"] = dict(provenance)
    return collection


def _means(name: str, values: NdarrayOrTensor, labels: np.ndarray, numbers: list[int]) -> np.ndarray:
    """The mean of ``values`` over the pixels of each instance, float64 ``[N]``."""
    array = convert_to_numpy(values)
    if array.shape != labels.shape:
        raise ValueError(f"{name} has shape {array.shape}, expected {labels.shape} as instances.")
    means = ndimage.mean(array.astype(np.float64), labels, numbers)
    if not np.isfinite(means).all():
        raise ValueError(f"{name} is not finite within instance {numbers[int(np.isfinite(means).argmin())]}.")
    return means


def write_geojson(path: PathLike, collection: Mapping[str, Any]) -> None:
    """Write a GeoJSON object as a compact file, which is either whole or not there.

    The file holds ASCII characters alone, others as their escapes: it is UTF-8, as GeoJSON must be, and also what
    those versions of QuPath expect that read a file in the encoding of the system.

    Args:
        path: file to write, named ``.geojson`` or ``.json`` for QuPath; its folder is made.
        collection: what :func:`nuclei_to_geojson` gives.

    Raises:
        ValueError: the collection holds what JSON cannot: NaN, infinity or an object; nothing is written.
        OSError: the file cannot be written; an existing one is left as it was.

    Example:
        >>> write_geojson("out/nuclei.geojson", nuclei_to_geojson(np.array([[0, 1]])))  # doctest: +SKIP
    """
    try:
        text = json.dumps(collection, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: the collection cannot be written as JSON ({error}).") from error
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="ascii")
