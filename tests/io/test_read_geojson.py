# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from monai_segdiff.exceptions import AnnotationError
from monai_segdiff.io.geojson import nuclei_to_geojson, write_geojson
from monai_segdiff.io.read_geojson import read_geojson

SQUARE = [[1, 1], [4, 1], [4, 3], [1, 3], [1, 1]]


def feature(coordinates: Any, kind: str = "Polygon", **properties: Any) -> dict[str, Any]:
    return {"type": "Feature", "geometry": {"type": kind, "coordinates": coordinates}, "properties": properties}


def read(folder: Path, content: Any, shape: tuple[int, int] = (6, 8)) -> tuple[np.ndarray, list[dict[str, Any]]]:
    path = folder / "objects.geojson"
    path.write_text(json.dumps(content))
    return read_geojson(path, shape)


def even_odd(rings: list[Any], shape: tuple[int, int]) -> np.ndarray:
    """By the crossings of a ray from each pixel's centre downwards."""
    inside = np.zeros(shape, dtype=bool)
    for row, column in np.ndindex(shape):
        x, y = column + 0.5, row + 0.5
        for ring in rings:
            for (xa, ya), (xb, yb) in zip(ring[:-1], ring[1:], strict=True):
                if (xa <= x) != (xb <= x) and ya + (x - xa) * (yb - ya) / (xb - xa) > y:
                    inside[row, column] = not inside[row, column]
    return inside


@pytest.mark.parametrize("seed", range(9))
def test_round_trip_is_bit_equal(tmp_path: Path, seed: int) -> None:
    generator = np.random.default_rng(seed)
    instances = generator.integers(0, (2, 3, 40)[seed % 3], (23, 31))
    if seed >= 6:
        instances = ndimage.zoom(instances, 4, order=0)
    instances = np.unique(instances, return_inverse=True)[1].reshape(instances.shape).astype(np.int32)
    collection = nuclei_to_geojson(instances, generator.random(instances.shape))
    write_geojson(tmp_path / "nuclei.geojson", collection)
    found, features = read_geojson(tmp_path / "nuclei.geojson", instances.shape)
    assert found.dtype == np.int32
    assert np.array_equal(found, instances)
    assert features == collection["features"]


@pytest.mark.parametrize("seed", range(8))
def test_polygons_of_any_slope_against_even_odd(tmp_path: Path, seed: int) -> None:
    generator = np.random.default_rng(seed)
    polygons = []
    for _ in range(3):
        # Reaches outside the image, crosses itself, has several rings.
        rings = [generator.uniform(-4, 20, (generator.integers(3, 9), 2)).tolist() for _ in range(2)]
        polygons.append([[*ring, ring[0]] for ring in rings])
    found, _ = read(tmp_path, feature(polygons, "MultiPolygon"), (13, 17))
    expected = np.any([even_odd(rings, (13, 17)) for rings in polygons], axis=0)
    assert expected.any()
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("seed", range(4))
def test_neighbours_share_no_pixel_and_leave_no_gap(tmp_path: Path, seed: int) -> None:
    # Fans around a point: the edges run through the centres of many pixels.
    generator = np.random.default_rng(seed)
    hub = (generator.integers(4, 20, 2) / 2).tolist()
    rim = [[0, 0], [5, 0], [12, 0], [12, 6], [12, 12], [3, 12], [0, 12], [0, 4], [0, 0]]
    fan = [[hub, a, b, hub] for a, b in zip(rim[:-1], rim[1:], strict=True)]
    features = [feature([ring if i % 2 else ring[::-1]]) for i, ring in enumerate(fan)]
    counts = [np.count_nonzero(read(tmp_path, one, (12, 12))[0]) for one in features]
    whole, _ = read(tmp_path, features, (12, 12))
    assert sum(counts) == np.count_nonzero(whole) == 144


def test_later_objects_cover_earlier_ones(tmp_path: Path) -> None:
    found, features = read(tmp_path, [feature([SQUARE]), feature([[[2, 0], [9, 0], [9, 2], [2, 2], [2, 0]]])])
    expected = np.zeros((6, 8), dtype=np.int32)
    expected[1:3, 1:4] = 1
    expected[0:2, 2:8] = 2
    assert np.array_equal(found, expected)
    assert len(features) == 2


def test_an_object_without_a_centre_keeps_its_number(tmp_path: Path) -> None:
    tiny = [[0.1, 0.1], [0.4, 0.1], [0.4, 0.4], [0.1, 0.1]]
    found, features = read(tmp_path, [feature([tiny]), feature([SQUARE])])
    assert np.unique(found).tolist() == [0, 2]
    assert len(features) == 2


# As QuPath 0.5 exports: doubles, a locked annotation with a plane, a measurement that could not be made.
QUPATH_FEATURE = """{
  "type": "Feature",
  "id": "7b2ff9c4-0ba6-4f6c-9bd9-d0ed0bd1c2aa",
  "geometry": {"type": "Polygon", "plane": {"c": -1, "z": 0, "t": 0},
               "coordinates": [[[1.0, 1.0], [4.0, 1.0], [4.0, 3.0], [1.0, 3.0], [1.0, 1.0]]]},
  "properties": {
    "objectType": "annotation", "isLocked": true, "name": "one", "color": [255, 0, 0],
    "classification": {"names": ["Tumor", "Positive"], "color": [200, 0, 0]},
    "measurements": {"Area \u00b5m^2": 6.0, "Circularity": NaN}
  }
}"""


@pytest.mark.parametrize(
    "content",
    [QUPATH_FEATURE, f"[{QUPATH_FEATURE}]", f'{{"type": "FeatureCollection", "features": [{QUPATH_FEATURE}]}}'],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_what_qupath_exports(tmp_path: Path, content: str, encoding: str) -> None:
    path = tmp_path / "qupath.json"
    path.write_text(content, encoding=encoding)
    found, features = read_geojson(path, (6, 8))
    assert np.argwhere(found == 1).tolist() == [[1, 1], [1, 2], [1, 3], [2, 1], [2, 2], [2, 3]]
    measurements = features[0]["properties"].pop("measurements")
    assert measurements["Area µm^2"] == 6
    assert math.isnan(measurements["Circularity"])
    expected = json.loads(content if content.startswith('{\n  "type": "Feature"') else QUPATH_FEATURE)
    del expected["properties"]["measurements"]
    assert features == [expected]


@pytest.mark.parametrize(
    ("properties", "expected"),
    [
        (
            {"measurements": [{"name": "Area", "value": 6}, {"name": "Length", "value": 1.5}]},
            {"Area": 6, "Length": 1.5},
        ),
        ({"measurements": []}, {}),
        ({"measurements": None}, {}),
        ({"name": "no measurements"}, {}),
        (None, {}),
    ],
)
def test_measurements_are_always_a_mapping(tmp_path: Path, properties: Any, expected: dict[str, float]) -> None:
    _, features = read(tmp_path, {**feature([SQUARE]), "properties": properties})
    assert features[0]["properties"] == {**(properties or {}), "measurements": expected}


def test_of_a_cell_the_nucleus_is_drawn(tmp_path: Path) -> None:
    cell = feature([[[0, 0], [8, 0], [8, 6], [0, 6], [0, 0]]], objectType="cell")
    found, _ = read(tmp_path, {**cell, "nucleusGeometry": {"type": "Polygon", "coordinates": [SQUARE]}})
    assert found.sum() == 6


def test_a_cell_whose_nucleus_is_null_is_drawn_itself(tmp_path: Path) -> None:
    found, _ = read(tmp_path, {**feature([SQUARE]), "nucleusGeometry": None})
    assert found.sum() == 6


def test_no_object_and_unknown_members(tmp_path: Path) -> None:
    found, features = read(tmp_path, {"type": "FeatureCollection", "provenance": {"a": 1}, "features": []}, (2, 3))
    assert features == []
    assert found.shape == (2, 3)
    assert not found.any()


def test_a_third_coordinate_is_left_out(tmp_path: Path) -> None:
    found, _ = read(tmp_path, feature([[[x, y, 9] for x, y in SQUARE]]))
    assert found.sum() == 6


def polygon_of(*points: Any) -> dict[str, Any]:
    return feature([list(points)])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"cannot be read \(JSONDecodeError"),
        (b'{"type": "FeatureCollection", "features": [', r"cannot be read \(JSONDecodeError"),
        (b'{"type": "Feature\xff"}', r"cannot be read \(UnicodeDecodeError"),
        (b"[" * 100_000, r"cannot be read \(RecursionError"),
        ("text", "holds text; expected a GeoJSON"),
        (None, "holds None; expected a GeoJSON"),
        ({"type": "FeatureCollection"}, "holds None; expected a GeoJSON"),
        ({"type": "FeatureCollection", "features": {}}, "holds {}; expected a GeoJSON"),
        ({"type": "Polygon", "coordinates": [SQUARE]}, "feature 0 is .*; expected a GeoJSON"),
        ([feature([SQUARE]), 3], "feature 1 is 3; expected a GeoJSON"),
        ({"type": "Feature"}, "feature 0: the geometry is None, expected a Polygon or MultiPolygon"),
        (feature([1, 2], "Point"), "feature 0: the geometry is {'type': 'Point'.*, expected a Polygon"),
        (feature(SQUARE, "LineString"), "the geometry is {'type': 'LineString'"),
        ({"type": "Feature", "geometry": [SQUARE]}, r"the geometry is \[\[\["),
        (feature(None), "the coordinates are None"),
        (feature([]), r"the coordinates are \[\]"),
        (feature([], "MultiPolygon"), r"the coordinates are \[\]"),
        (feature([[[SQUARE]], []], "MultiPolygon"), "the coordinates are"),
        (feature([[SQUARE], []], "MultiPolygon"), "the coordinates are"),
        (feature(SQUARE), "expected closed rings of at least 4 positions"),
        (feature([SQUARE], "MultiPolygon"), "expected closed rings"),
        (polygon_of([1, 1], [4, 1], [1, 1]), "expected closed rings"),
        (polygon_of([1, 1], [4, 1], [4, 3], [1, 3]), "not closed"),
        (polygon_of([1], [4], [4], [1]), "expected closed rings"),
        (polygon_of([1, 1], [4], [4, 3], [1, 1]), "expected closed rings"),
        (polygon_of(["1", "1"], ["4", "1"], ["4", "3"], ["1", "1"]), "expected closed rings"),
        (polygon_of([1, 1], [4, None], [4, 3], [1, 1]), "expected closed rings"),
        (polygon_of([1, 1], [4, {}], [4, 3], [1, 1]), "expected closed rings"),
        (polygon_of([1, 1], [4, math.nan], [4, 3], [1, 1]), "not finite, or beyond any image"),
        (polygon_of([1, 1], [4, math.inf], [4, 3], [1, 1]), "not finite, or beyond any image"),
        (polygon_of([1, 1], [4, 1e300], [4, 3], [1, 1]), "not finite, or beyond any image"),
        (polygon_of([1, 1], [4, 10**30], [4, 3], [1, 1]), "expected closed rings"),
        (polygon_of([8, 1], [9, 1], [9, 2], [8, 1]), r"lies at x 8..9, y 1..2, .* the image of 8 x 6 pixels"),
        (polygon_of([1, 6], [4, 6], [4, 7], [1, 6]), "feature 0: lies at x 1..4, y 6..7"),
        (polygon_of([1, -2], [4, -2], [4, 0], [1, -2]), "feature 0: lies at"),
        (polygon_of([-2, 1], [0, 1], [0, 2], [-2, 1]), "feature 0: lies at"),
        ({**feature([SQUARE]), "properties": [1]}, r"feature 0: properties is \[1\], expected an object"),
        (feature([SQUARE], measurements=3), "feature 0: measurements is 3, expected names and numbers"),
        ({**feature([SQUARE]), "nucleusGeometry": {}}, "feature 0: the geometry is {}, expected a Polygon"),
        (feature([SQUARE], measurements=False), "feature 0: measurements is False"),
        (feature([SQUARE], measurements={"Area": "large"}), "feature 0: measurements is {'Area': 'large'}"),
        (feature([SQUARE], measurements=[{"name": "Area"}]), "feature 0: measurements is"),
    ],
)
def test_errors_name_the_file(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "broken.geojson"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    with pytest.raises(AnnotationError, match=rf"broken\.geojson: .*{message}"):
        read_geojson(path, (6, 8))


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match=r"none\.geojson: cannot be read \(FileNotFoundError"):
        read_geojson(tmp_path / "none.geojson", (6, 8))


@pytest.mark.parametrize("shape", [(6.0, 8), (np.int64(6), np.float32(8))])
def test_whole_numbers_of_any_type(tmp_path: Path, shape: Any) -> None:
    found, _ = read(tmp_path, feature([SQUARE]), shape)
    assert found.shape == (6, 8)


@pytest.mark.parametrize(
    "shape",
    [(6,), (6, 8, 3), (0, 8), (6, -1), (6.5, 8), (math.nan, 8), (6, math.inf), (6, "8"), (6, None), (6, np.nan)],
)
def test_bad_shape(tmp_path: Path, shape: Any) -> None:
    with pytest.raises(ValueError, match="shape is .*, expected height and width in pixels, each a whole number"):
        read_geojson(tmp_path / "objects.geojson", shape)
