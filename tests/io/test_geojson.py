# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from monai_segdiff.io.geojson import nuclei_to_geojson, write_geojson
from monai_segdiff.io.instance_polygons import instance_polygons

# Instance 2 has a hole, instance 5 two parts that touch at a corner.
INSTANCES = np.array(
    [
        [0, 2, 2, 2, 0],
        [0, 2, 0, 2, 0],
        [5, 2, 2, 2, 0],
        [0, 5, 0, 0, 0],
    ],
    dtype=np.int32,
)
PROBABILITY = np.linspace(0, 1, 20, dtype=np.float32).reshape(4, 5)


def strict_loads(text: str) -> Any:
    def fail(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=fail)


def test_features() -> None:
    collection = nuclei_to_geojson(INSTANCES, name="Tumour", color=(1, 2, 255))
    assert list(collection) == ["type", "features"]
    assert collection["type"] == "FeatureCollection"
    polygons = instance_polygons(INSTANCES)
    geometries = [
        {"type": "Polygon", "coordinates": polygons[2][0]},
        {"type": "MultiPolygon", "coordinates": polygons[5]},
    ]
    assert [len(polygons[2]), len(polygons[5])] == [1, 2]
    for feature, geometry, count in zip(collection["features"], geometries, (8, 2), strict=True):
        assert uuid.UUID(feature.pop("id")).version == 5
        assert feature == {
            "type": "Feature",
            "geometry": geometry,
            "properties": {
                "objectType": "detection",
                "classification": {"name": "Tumour", "color": [1, 2, 255]},
                "measurements": {"Area px^2": count},
            },
        }


def test_measurements() -> None:
    uncertainty = torch.tensor(PROBABILITY.T.reshape(4, 5) * 0.6)
    collection = nuclei_to_geojson(INSTANCES, torch.from_numpy(PROBABILITY), uncertainty, pixel_size=0.25)
    for feature, number, count in zip(collection["features"], (2, 5), (8, 2), strict=True):
        inside = np.equal(INSTANCES, number)
        expected = {
            "Area px^2": count,
            "Area µm^2": count / 16,
            "Probability: Mean": np.mean([p for p, i in zip(PROBABILITY.flat, inside.flat, strict=True) if i]),
            "Uncertainty (nats): Mean": np.mean(uncertainty.numpy()[inside]),
        }
        found = feature["properties"]["measurements"]
        assert list(found) == list(expected)
        assert found == pytest.approx(expected, abs=1e-6)
        assert all(type(value) is float and round(value, 6) == value for value in found.values())


def test_numbers_far_above_the_count() -> None:
    sparse = INSTANCES.astype(np.int64) * 10**12
    assert nuclei_to_geojson(sparse, PROBABILITY) == nuclei_to_geojson(INSTANCES, PROBABILITY)


def test_ids_differ_within_a_file_and_follow_the_content() -> None:
    def ids(*args: Any, **kwargs: Any) -> list[str]:
        return [feature["id"] for feature in nuclei_to_geojson(*args, **kwargs)["features"]]

    checkerboard = np.arange(1, 101).reshape(10, 10)
    assert len(set(ids(checkerboard))) == 100
    assert ids(INSTANCES) == ids(INSTANCES.astype(np.uint8))
    assert not set(ids(INSTANCES)) & set(ids(INSTANCES, name="Other"))
    assert not set(ids(INSTANCES)) & set(ids(np.roll(INSTANCES, 1, axis=0)))


def test_provenance_is_a_foreign_member() -> None:
    provenance = {"bundle": "monuseg", "settings": {"seed": 0}}
    collection = nuclei_to_geojson(INSTANCES, provenance=provenance)
    assert collection["provenance"] == provenance
    # RFC 7946, section 7.1: a collection must not have the defining members of other types.
    assert not {"coordinates", "geometries", "geometry", "properties"} & collection.keys()
    assert collection["features"] == nuclei_to_geojson(INSTANCES)["features"]


def test_written_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "nuclei.geojson"
    collection = nuclei_to_geojson(INSTANCES, PROBABILITY, pixel_size=0.5, provenance={"note": "größer"})
    write_geojson(path, collection)
    first = path.read_bytes()
    assert first.isascii()
    assert b" " not in first.replace(b"Area ", b"").replace(b": Mean", b"")
    assert strict_loads(first.decode()) == collection
    write_geojson(path, nuclei_to_geojson(INSTANCES, PROBABILITY, pixel_size=0.5, provenance={"note": "größer"}))
    assert path.read_bytes() == first
    assert list(path.parent.iterdir()) == [path]


def test_no_nucleus(tmp_path: Path) -> None:
    empty = np.zeros((4, 5), dtype=np.int32)
    collection = nuclei_to_geojson(empty, PROBABILITY, PROBABILITY, pixel_size=0.5)
    assert collection == {"type": "FeatureCollection", "features": []}
    write_geojson(tmp_path / "none.geojson", collection)
    assert (tmp_path / "none.geojson").read_text() == '{"type":"FeatureCollection","features":[]}'


def test_what_lies_outside_the_nuclei_may_be_nan() -> None:
    probability = np.where(INSTANCES == 0, np.nan, PROBABILITY)
    assert nuclei_to_geojson(INSTANCES, probability) == nuclei_to_geojson(INSTANCES, PROBABILITY)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), Path("model.pt"), np.float32(1)])
def test_what_json_cannot_hold(tmp_path: Path, value: Any) -> None:
    path = tmp_path / "nuclei.geojson"
    path.write_text("old")
    with pytest.raises(ValueError, match=r"nuclei\.geojson: the collection cannot be written as JSON"):
        write_geojson(path, nuclei_to_geojson(INSTANCES, provenance={"value": value}))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"instances": np.zeros((2, 2))}, "instances is float64"),
        ({"probability": PROBABILITY[None]}, r"probability has shape \(1, 4, 5\), expected \(4, 5\)"),
        ({"uncertainty": PROBABILITY.T}, r"uncertainty has shape \(5, 4\), expected \(4, 5\)"),
        ({"probability": np.where(INSTANCES == 5, np.nan, 0)}, "probability is not finite within instance 5"),
        ({"uncertainty": np.where(INSTANCES == 2, np.inf, 0)}, "uncertainty is not finite within instance 2"),
        ({"name": " "}, "name is ' '"),
        ({"name": None}, "name is None"),
        ({"color": (0, 0)}, "color is"),
        ({"color": (0, 0, 256)}, "color is"),
        ({"color": (0, 0, -1)}, "color is"),
        ({"color": (0.5, 0, 0)}, "color is"),
        ({"pixel_size": 0}, "pixel_size is 0"),
        ({"pixel_size": -0.5}, "pixel_size is -0.5"),
        ({"pixel_size": float("nan")}, "pixel_size is nan"),
        ({"pixel_size": float("inf")}, "pixel_size is inf"),
    ],
)
def test_errors(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nuclei_to_geojson(**{"instances": INSTANCES, **change})
