# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monai_segdiff.data import CityscapesAnnotation
from monai_segdiff.exceptions import AnnotationError

HEIGHT, WIDTH = 24, 32
SQUARE = [[2, 3], [8, 3], [8, 6], [2, 6]]  # x 2..8, y 3..6


def save(path: Path, objects: list[dict[str, Any]], **changes: Any) -> Path:
    path.write_text(json.dumps({"imgHeight": HEIGHT, "imgWidth": WIDTH, "objects": objects, **changes}))
    return path


def thing(label: str, polygon: list[list[int]], **more: Any) -> dict[str, Any]:
    return {"label": label, "polygon": polygon, **more}


def contains(polygon: list[list[int]], x: int, y: int) -> bool:
    """Whether a pixel's centre is inside or on the border, in whole numbers."""
    inside = False
    for (x0, y0), (x1, y1) in zip(polygon, polygon[1:] + polygon[:1], strict=True):
        cross = (x1 - x0) * (y - y0) - (y1 - y0) * (x - x0)
        if cross == 0 and min(x0, x1) <= x <= max(x0, x1) and min(y0, y1) <= y <= max(y0, y1):
            return True
        if (y0 > y) != (y1 > y) and (cross > 0) == (y1 > y0):
            inside = not inside
    return inside


def paint(objects: list[dict[str, Any]]) -> np.ndarray:
    """Number of the last object painted on each pixel, -1 for none."""
    canvas = np.full((HEIGHT, WIDTH), -1)
    for index, item in enumerate(objects):
        if not item.get("deleted") and item["label"] != "license plate":
            for y, x in np.ndindex(canvas.shape):
                if contains(item["polygon"], x, y):
                    canvas[y, x] = index
    return canvas


def whole(annotation: CityscapesAnnotation, index: int) -> np.ndarray:
    """Mask of the visible part, of the size of the image."""
    mask = np.zeros(annotation.size, bool)
    visible = annotation.visible(index)
    if visible is not None:
        (top, left), part = visible
        assert part.dtype == bool
        for edge in (part[0], part[-1], part[:, 0], part[:, -1]):
            assert edge.any(), "the box is tight"
        mask[top : top + part.shape[0], left : left + part.shape[1]] = part
    return mask


def test_a_square_includes_its_border(tmp_path: Path) -> None:
    annotation = CityscapesAnnotation(save(tmp_path / "a.json", [thing("bus", SQUARE)]))
    assert annotation.size == (HEIGHT, WIDTH)
    (top, left), mask = annotation.visible(0)
    assert (top, left, mask.shape, mask.all()) == (3, 2, (4, 7), True)


@pytest.mark.parametrize("seed", range(6))
def test_random_polygons_against_painting_pixel_by_pixel(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = ["bus", "car", "cargroup", "license plate"]
    objects = []
    for _ in range(12):
        # some reach over the border, and some lie outside
        middle = rng.integers((-6, -6), (WIDTH + 6, HEIGHT + 6))
        polygon = (middle + rng.integers(-10, 11, (int(rng.integers(3, 7)), 2))).tolist()
        objects.append(thing(str(rng.choice(labels)), polygon, deleted=int(rng.random() < 0.15)))
    annotation = CityscapesAnnotation(save(tmp_path / "a.json", objects))
    painted = paint(objects)
    visible = 0
    for index, item in enumerate(objects):
        if item["deleted"]:
            assert annotation.labels[index] is None
        elif item["label"] != "license plate":
            assert annotation.labels[index] == item["label"]
            assert np.array_equal(whole(annotation, index), painted == index)
            visible += (painted == index).any()
    assert visible >= 4


@pytest.mark.parametrize(
    ("later", "pixels"),
    [
        ([], 28),
        ([thing("pole", [[4, 0], [5, 0], [5, 9], [4, 9]])], 20),
        ([thing("license plate", [[4, 0], [5, 0], [5, 9], [4, 9]])], 28),
        ([thing("pole", [[4, 0], [5, 0], [5, 9], [4, 9]], deleted=1)], 28),
        ([thing("pole", [[4, 0], [5, 0], [5, 9], [4, 9]], deleted=0)], 20),
        ([thing("busgroup", [[0, 0], [9, 0], [9, 4], [0, 4]])], 14),
        ([thing("bus", [[0, 0], [9, 0], [9, 9], [0, 9]])], 0),
        ([thing("pole", [[4, 0], [5, 9]])], 28),  # a line has no inside
        ([thing("pole", [])], 28),
        ([thing("pole", [[9, 0], [12, 0], [12, 9], [9, 9]])], 28),
        ([thing("pole", [[8, 0], [12, 0], [12, 9], [8, 9]])], 24),
        ([thing("pole", [[0, 0], [12, 0], [12, 3], [0, 3]])], 21),
    ],
)
def test_what_covers(tmp_path: Path, later: list[dict[str, Any]], pixels: int) -> None:
    earlier = thing("sky", [[0, 0], [31, 0], [31, 23], [0, 23]])
    annotation = CityscapesAnnotation(save(tmp_path / "a.json", [earlier, thing("bus", SQUARE), *later]))
    assert whole(annotation, 1).sum() == pixels
    assert (annotation.visible(1) is None) == (pixels == 0)


def test_without_inside(tmp_path: Path) -> None:
    lines = [thing("bus", polygon) for polygon in ([], [[3, 3]], [[3, 3], [9, 9]], [[-9, 2], [-2, 2], [-2, 9]])]
    annotation = CityscapesAnnotation(save(tmp_path / "a.json", lines))
    assert [annotation.visible(index) for index in range(4)] == [None] * 4


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "cannot be read (JSONDecodeError"),
        ('{"imgHeight": 24, ', "cannot be read (JSONDecodeError"),
        ("[" * 100000, "cannot be read (RecursionError"),
        ("[]", "holds a list"),
        ('{"imgWidth": 32, "objects": []}', "imgHeight is None"),
        ('{"imgHeight": 24, "imgWidth": "32", "objects": []}', "imgWidth is '32'"),
        ('{"imgHeight": 0, "imgWidth": 32, "objects": []}', "imgHeight is 0"),
        ('{"imgHeight": true, "imgWidth": 32, "objects": []}', "imgHeight is True"),
        ('{"imgHeight": 24, "imgWidth": 32}', "objects is a NoneType"),
        ('{"imgHeight": 24, "imgWidth": 32, "objects": ["bus"]}', "object 0 is bus"),
        ('{"imgHeight": 24, "imgWidth": 32, "objects": [{"polygon": []}]}', "object 0 is {'polygon': []}"),
        ('{"imgHeight": 24, "imgWidth": 32, "objects": [{"label": "bus"}]}', "object 0 is {'label': 'bus'}"),
        *(
            (
                f'{{"imgHeight": 24, "imgWidth": 32, "objects": [{{"label": "bus", "polygon": {polygon}}}]}}',
                "the polygon of object 0 is",
            )
            for polygon in ("3", "[1, 2]", "[[1, 2, 3]]", '[["a", 2], [3, 4], [5, 6]]', "[[1, NaN], [3, 4], [5, 6]]")
        ),
    ],
)
def test_damaged_files(tmp_path: Path, text: str, found: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(AnnotationError) as caught:
        CityscapesAnnotation(path)
    assert str(caught.value).startswith(f"{path}: {found}")
    assert "expected the JSON of Cityscapes" in str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match="FileNotFoundError"):
        CityscapesAnnotation(tmp_path / "a.json")
