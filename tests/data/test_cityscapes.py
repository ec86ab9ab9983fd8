# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from monai_segdiff.data import cityscapes_split, prepare_cityscapes_crops
from monai_segdiff.exceptions import AnnotationError, DatasetError, ImageError

HEIGHT, WIDTH = 120, 250
PARTS = {"train/aachen": "training", "train/weimar": "validation", "train/zurich": "validation", "val/lindau": "test"}
Box = tuple[int, int, int, int]


def rectangle(x0: int, y0: int, x1: int, y1: int) -> list[list[int]]:
    """Polygon that fills x0..x1 and y0..y1, both included."""
    return [[x0, y0], [x1, y0], [x1, y1], [x0, y1]]


def thing(label: str, *box: int, **more: Any) -> dict[str, Any]:
    return {"label": label, "polygon": rectangle(*box), **more}


def picture() -> np.ndarray:
    """A picture whose red is the column and green the row."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([columns, rows, 0 * rows], axis=-1).astype(np.uint8)


def add(root: Path, place: str, name: str, *objects: dict[str, Any]) -> None:
    for kind in ("gtFine", "leftImg8bit"):
        (root / kind / place).mkdir(parents=True, exist_ok=True)
    content = {"imgHeight": HEIGHT, "imgWidth": WIDTH, "objects": list(objects)}
    (root / "gtFine" / place / f"{name}_gtFine_polygons.json").write_text(json.dumps(content))
    Image.fromarray(picture()).save(root / "leftImg8bit" / place / f"{name}_leftImg8bit.png")


def streets(root: Path, *objects: dict[str, Any]) -> Path:
    """One image in every city, all with the same objects."""
    for place in PARTS:
        add(root, place, f"{Path(place).name}_000001_000019", *objects)
    return root


def crops(folder: Path) -> dict[str, tuple[Box, np.ndarray]]:
    """Box (left, top, width, height) and mask by part and name, the box as the pixels tell it."""
    found = {}
    for part in ("training", "validation", "test"):
        names = {path.name for path in (folder / part / "labels").iterdir()}
        assert names == {path.name for path in (folder / part / "images").iterdir()}
        for name in names:
            image, label = (np.asarray(Image.open(folder / part / kind / name)) for kind in ("images", "labels"))
            left, top = (int(value) for value in image[0, 0, :2])
            height, width = label.shape
            assert np.array_equal(image, picture()[top : top + height, left : left + width])
            assert label.dtype == np.uint8
            assert set(np.unique(label)) <= {0, 255}
            found[f"{part}/{Path(name).stem}"] = ((left, top, width, height), label > 0)
    return found


def prepare(root: Path, output: Path, class_name: str = "bus", *args: Any, **kwargs: Any) -> Path:
    return prepare_cityscapes_crops(root, output, class_name, *args, progress=False, **kwargs)


def counts(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "crops.json").read_text())["counts"]


def test_crops_masks_and_parts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = streets(
        tmp_path / "city",
        thing("bus", 10, 20, 49, 39),
        thing("busgroup", 100, 20, 149, 39),
        thing("bus", 60, 20, 79, 29, deleted=1),
        thing("car", 30, 30, 89, 59),
        thing("bus", 240, 100, 300, 200),
        thing("license plate", 242, 105, 245, 110),
        thing("bus", 31, 31, 40, 40),
        thing("car", 31, 31, 45, 45),
        thing("bus", 200, 5, 203, 5),
    )
    add(root, "train/aachen", "aachen_000002_000019", thing("car", 5, 5, 9, 9))
    # macOS writes such a file beside each file on foreign disks
    (root / "gtFine/train/aachen/._aachen_000001_000019_gtFine_polygons.json").write_bytes(b"\0")
    with caplog.at_level(logging.INFO):
        output = prepare(root, tmp_path / "crops")
    expected = {}
    for place, part in PARTS.items():
        name = f"{part}/{Path(place).name}_000001_000019"
        first = np.ones((20, 40), bool)
        first[10:, 20:] = False
        expected[f"{name}_000"] = ((10, 20, 40, 20), first)
        expected[f"{name}_004"] = ((240, 100, 10, 20), np.ones((20, 10), bool))
    found = crops(output)
    assert found.keys() == expected.keys()
    for name, (box, mask) in expected.items():
        assert found[name][0] == box, name
        assert np.array_equal(found[name][1], mask), name
    one = {"objects": 2, "hidden": 1, "smaller": 1}
    two = {"objects": 4, "hidden": 2, "smaller": 2}
    assert counts(output) == {"training": one, "validation": two, "test": one}
    assert "training: 2 bus crops; left out 1 that are hidden and 1 that are smaller than min_size." in caplog.text
    cars = prepare(root, tmp_path / "cars", "car")
    assert [entry["objects"] for entry in counts(cars).values()] == [3, 4, 2]


@pytest.mark.parametrize(
    ("percent", "box", "expected"),
    [
        (15, (50, 30, 149, 69), (42, 27, 116, 46)),  # 100 x 40: 7.5 and 3 on each side; 42.5 rounds to 42
        (20, (50, 30, 149, 69), (40, 26, 120, 48)),
        (0, (50, 30, 149, 69), (50, 30, 100, 40)),
        (100, (50, 30, 149, 69), (0, 10, 200, 80)),
        (15, (4, 2, 43, 21), (1, 0, 46, 24)),  # 3 and 1.5: the upper side ends at 0.5, which rounds to 0
        (15, (2, 1, 101, 40), (0, 0, 110, 44)),  # clipped at the left and above
        (15, (150, 80, 249, 119), (142, 77, 108, 43)),  # clipped at the right and below
        (15, (0, 0, 249, 119), (0, 0, 250, 120)),
        (15, (100, 50, 100, 50), (100, 50, 1, 1)),
    ],
)
def test_expansion(tmp_path: Path, percent: float, box: Box, expected: Box) -> None:
    root = streets(tmp_path / "city", thing("bus", *box))
    found = crops(
        prepare(root, tmp_path / "crops", "bus", "expansion", percent, (int(percent), int(percent)), min_size=1)
    )
    assert len(found) == 4
    for left, top, width, height in {value for value, _ in found.values()}:
        assert (left, top, left + width, top + height) == (
            expected[0],
            expected[1],
            expected[0] + expected[2],
            expected[1] + expected[3],
        )
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[box[1] : box[3] + 1, box[0] : box[2] + 1] = True
    inside = mask[expected[1] : expected[1] + expected[3], expected[0] : expected[0] + expected[2]]
    assert all(np.array_equal(label, inside) for _, label in found.values())


def test_training_expansion_is_drawn_once_for_each_object(tmp_path: Path) -> None:
    # 200 pixels wide, so that each side grows by as many pixels as there are per cent
    root = streets(tmp_path / "city", thing("bus", 25, 10, 224, 109))
    for number in range(2, 22):
        add(root, "train/aachen", f"aachen_{number:06d}_000019", thing("bus", 25, 10, 224, 109))

    def percents(output: Path, part: str) -> list[int]:
        found = crops(output)
        boxes = [found[name][0] for name in sorted(found) if name.startswith(part)]
        return [25 - left for left, _, width, _ in boxes if width == 200 + 2 * (25 - left)]

    output = prepare(root, tmp_path / "one", "bus", "expansion")
    drawn = percents(output, "training")
    assert len(drawn) == 21
    assert len(set(drawn)) > 5
    assert all(10 <= percent <= 20 for percent in drawn)
    assert percents(output, "validation") + percents(output, "test") == [15, 15, 15]
    assert percents(prepare(root, tmp_path / "two", "bus", "expansion"), "training") == drawn
    assert percents(prepare(root, tmp_path / "seed", "bus", "expansion", seed=1), "training") != drawn
    narrow = prepare(root, tmp_path / "narrow", "bus", "expansion", training_expansion=(12, 14))
    assert set(percents(narrow, "training")) == {12, 13, 14}
    # a further object in front of the others in the file changes the index, and so the draws
    for path in (root / "gtFine").rglob("*.json"):
        content = json.loads(path.read_text())
        content["objects"].insert(0, thing("sky", 0, 0, 3, 3))
        path.write_text(json.dumps(content))
    assert percents(prepare(root, tmp_path / "index", "bus", "expansion"), "training") != drawn


def test_list_of_the_crops(tmp_path: Path) -> None:
    root = streets(tmp_path / "city", thing("bus", 10, 20, 49, 39))
    output = prepare(root, tmp_path / "crops")
    parts = cityscapes_split(str(output))
    assert {part: [entry["name"] for entry in entries] for part, entries in parts.items()} == {
        "training": ["aachen_000001_000019_000"],
        "validation": ["weimar_000001_000019_000", "zurich_000001_000019_000"],
        "test": ["lindau_000001_000019_000"],
    }
    for part, entries in parts.items():
        for entry in entries:
            assert entry["image"] == str(output / part / "images" / f"{entry['name']}.png")
            assert entry["label"] == str(output / part / "labels" / f"{entry['name']}.png")


def test_validation_cities(tmp_path: Path) -> None:
    root = streets(tmp_path / "city", thing("bus", 10, 20, 49, 39))
    parts = cityscapes_split(prepare(root, tmp_path / "crops", validation_cities=["aachen"]))
    assert [entry["name"][:6] for entry in parts["validation"]] == ["aachen"]
    assert [entry["name"][:6] for entry in parts["training"]] == ["weimar", "zurich"]


def test_second_call_does_nothing(tmp_path: Path) -> None:
    root = streets(tmp_path / "city", thing("bus", 10, 20, 49, 39))
    output = prepare(root, tmp_path / "crops")
    times = {path: path.stat().st_mtime_ns for path in output.rglob("*")}
    shutil.rmtree(root)
    assert prepare(root, output, expansion=30, validation_cities=("zurich", "weimar")) == output  # a tight box anyway
    assert times == {path: path.stat().st_mtime_ns for path in output.rglob("*")}


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"class_name": "car"}, "class_name='bus', expected 'car'"),
        ({"box": "expansion"}, "box='tight', expected 'expansion'"),
        ({"validation_cities": ["weimar"]}, "validation_cities=['weimar', 'zurich'], expected ['weimar']"),
        ({"min_size": 9}, "min_size=2, expected 9"),
        ({"seed": 3}, "seed=0, expected 3"),
        ({"cityscapes_dir": "/elsewhere"}, "expected '/elsewhere'"),
    ],
)
def test_other_settings_in_the_same_folder(tmp_path: Path, changes: dict[str, Any], found: str) -> None:
    root = streets(tmp_path / "city", thing("bus", 10, 20, 49, 39), thing("car", 60, 20, 89, 39))
    output = prepare(root, tmp_path / "crops")
    settings = {"cityscapes_dir": root, "class_name": "bus", **changes}
    with pytest.raises(DatasetError) as caught:
        prepare_cityscapes_crops(output_dir=output, progress=False, **settings)
    assert found in str(caught.value)
    assert str(output) in str(caught.value)
    assert len(crops(output)) == 4


# bad input: each changes the data and returns the path that the message must name


def without(name: str) -> Callable[[Path], Path]:
    def change(root: Path) -> Path:
        shutil.rmtree(root / name)
        return root / name

    return change


def no_image(root: Path) -> Path:
    path = root / "leftImg8bit/val/lindau/lindau_000001_000019_leftImg8bit.png"
    path.unlink()
    return path


def half_an_image(root: Path) -> Path:
    path = root / "leftImg8bit/val/lindau/lindau_000001_000019_leftImg8bit.png"
    path.write_bytes(path.read_bytes()[:200])
    return path


def other_size(root: Path) -> Path:
    path = root / "leftImg8bit/val/lindau/lindau_000001_000019_leftImg8bit.png"
    Image.new("RGB", (WIDTH, HEIGHT + 1)).save(path)
    return path


def half_an_annotation(root: Path) -> Path:
    path = root / "gtFine/val/lindau/lindau_000001_000019_gtFine_polygons.json"
    path.write_text(path.read_text()[:60])
    return path


def hidden(root: Path) -> Path:
    path = root / "gtFine/val/lindau/lindau_000001_000019_gtFine_polygons.json"
    content = json.loads(path.read_text())
    content["objects"].append(thing("wall", 0, 0, WIDTH, HEIGHT))
    path.write_text(json.dumps(content))
    return root


@pytest.mark.parametrize(
    ("change", "kind", "expected"),
    [
        (without("."), DatasetError, "this folder does not exist; expected the folder of the Cityscapes downloads"),
        (without("gtFine"), DatasetError, "this folder does not exist; expected the folder"),
        (without("gtFine/val"), DatasetError, "this folder does not exist; expected the folder"),
        (without("leftImg8bit"), DatasetError, "aachen_000001_000019_gtFine_polygons.json does not exist"),
        (
            without("gtFine/train/zurich"),
            DatasetError,
            "no folder of the validation cities zurich, found aachen, weimar",
        ),
        (without("gtFine/train/aachen"), DatasetError, "the training part has no visible object 'bus'"),
        (hidden, DatasetError, "the test part has no visible object 'bus' (left out 1 that are hidden"),
        (no_image, DatasetError, "does not exist; expected the folder"),
        (half_an_image, ImageError, "cannot be decoded"),
        (other_size, AnnotationError, "250 x 120 pixels, but"),
        (half_an_annotation, AnnotationError, "cannot be read"),
    ],
)
def test_bad_datasets(tmp_path: Path, change: Callable[[Path], Path], kind: type[Exception], expected: str) -> None:
    root = streets(tmp_path / "city", thing("bus", 10, 20, 49, 39))
    path = change(root)
    with pytest.raises(kind) as caught:
        prepare(root, tmp_path / "crops")
    assert expected in str(caught.value)
    if "zurich" not in expected and "training" not in expected:
        assert str(path) in str(caught.value)
    assert not (tmp_path / "crops").exists()
    assert {path.name for path in tmp_path.iterdir()} <= {"city"}


def test_unknown_class(tmp_path: Path) -> None:
    names = "bicycle, bus, person, train, truck, motorcycle, car, rider"
    for name in ("bike", "busgroup", ""):
        with pytest.raises(DatasetError, match=f"city: unknown class {name!r}; expected {names}"):
            prepare(tmp_path / "city", tmp_path / "crops", name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ({"box": "loose"}, "loose"),
        ({"expansion": -1}, "expansion=-1"),
        ({"training_expansion": (20, 10)}, r"training_expansion=\(20, 10\)"),
        ({"training_expansion": (-1, 10)}, r"training_expansion=\(-1, 10\)"),
        ({"min_size": 0}, "min_size=0"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_arguments_out_of_range(tmp_path: Path, arguments: dict[str, Any], found: str) -> None:
    with pytest.raises(ValueError, match=found):
        prepare(streets(tmp_path / "city", thing("bus", 1, 1, 9, 9)), tmp_path / "crops", **arguments)
    assert not (tmp_path / "crops").exists()


def test_crops_that_were_lost(tmp_path: Path) -> None:
    root = streets(tmp_path / "city", thing("bus", 10, 20, 49, 39))
    with pytest.raises(DatasetError, match="expected a folder that prepare_cityscapes_crops has written"):
        cityscapes_split(root)
    output = prepare(root, tmp_path / "crops")
    (output / "validation" / "labels" / "zurich_000001_000019_000.png").unlink()
    with pytest.raises(DatasetError, match="no annotation for 1 of 2 images"):
        cityscapes_split(output)
    (output / "validation" / "images" / "zurich_000001_000019_000.png").unlink()
    with pytest.raises(DatasetError, match="validation: holds 1 crops, expected 2 as crops.json says"):
        cityscapes_split(output)
