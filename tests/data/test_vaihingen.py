# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from monai_segdiff.data import evaluation_datalist, vaihingen_split
from monai_segdiff.exceptions import DatasetError


def dataset(root: Path, numbers: range, labels: str = "labels") -> Path:
    for n in numbers:
        for path in (root / "images" / f"building_{n}.tif", root / labels / f"building_{n}.png"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(str(n))  # no picture, but another content for every name
    return root


def numbers(entries: list[dict[str, str]]) -> list[int]:
    return [int(entry["name"].removeprefix("building_")) for entry in entries]


def test_published_parts(tmp_path):
    parts = vaihingen_split(dataset(tmp_path, range(1, 169)))
    assert list(parts) == ["training", "validation", "test"]
    assert [len(entries) for entries in parts.values()] == [80, 20, 68]
    # In lexicographic order 1, 10, 100 to 109, 11, 110 to 119, ..., 16, 160 to 168, 17, 18, ... come first.
    ordered = sorted(str(n) for n in range(1, 169))
    assert [str(n) for entries in parts.values() for n in numbers(entries)] == ordered
    assert numbers(parts["training"])[:4] == [1, 10, 100, 101]
    assert numbers(parts["test"]) == [int(n) for n in ordered[100:]]
    assert parts["test"][0] == {
        "name": f"building_{ordered[100]}",
        "image": str(tmp_path / "images" / f"building_{ordered[100]}.tif"),
        "label": str(tmp_path / "labels" / f"building_{ordered[100]}.png"),
    }
    assert vaihingen_split(str(tmp_path)) == parts


def test_other_numbers_and_masks(tmp_path):
    parts = vaihingen_split(dataset(tmp_path, range(1, 13), labels="masks"), num_training=5, num_validation=2)
    assert {part: numbers(entries) for part, entries in parts.items()} == {
        "training": [1, 10, 11],
        "validation": [12, 2],
        "test": [3, 4, 5, 6, 7, 8, 9],
    }


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_training": 6}, r"holds 6 images, of which num_training=6 would not be tested"),
        ({}, r"num_training=100"),
        ({"num_training": 3, "num_validation": 3}, r"num_validation is 3 with num_training=3"),
        ({"num_training": 3, "num_validation": 0}, r"num_validation is 0"),
        ({"num_training": 0, "num_validation": 1}, r"num_validation is 1 with num_training=0"),
    ],
)
def test_no_part_is_empty(tmp_path, settings, message):
    with pytest.raises(DatasetError, match=message) as caught:
        vaihingen_split(dataset(tmp_path, range(6)), **settings, split_file=tmp_path / "split.json")
    assert str(tmp_path) in str(caught.value)
    assert not (tmp_path / "split.json").exists()


@pytest.mark.parametrize(
    ("one", "other", "parts"),
    [(0, 2, "'validation' (and in 'training')"), (0, 5, "'test' (and in 'training')"), (2, 4, "'test'")],
)
def test_an_image_in_two_parts(tmp_path, one, other, parts):
    root = dataset(tmp_path, range(6))
    (root / "images" / f"building_{other}.tif").write_text(str(one))
    with pytest.raises(DatasetError) as caught:
        vaihingen_split(root, num_training=4, num_validation=2)
    assert f"{root}: the same image is in both parts: building_{other} of {parts}" in str(caught.value)


def test_missing_label_is_named(tmp_path):
    root = dataset(tmp_path, range(6))
    (root / "labels" / "building_3.png").unlink()
    with pytest.raises(DatasetError, match=r"building_3\.tif"):
        vaihingen_split(root, num_training=3, num_validation=1)


def test_split_file_records_the_parts(tmp_path):
    root, file = dataset(tmp_path / "data", range(8)), tmp_path / "out" / "split.json"
    parts = vaihingen_split(root, num_training=5, num_validation=2, split_file=file)
    assert [path.name for path in file.parent.iterdir()] == ["split.json"]
    content = json.loads(file.read_text())
    assert {part: content[part] for part in parts} == parts
    for part in ("training", "validation"):
        assert content[f"{part}_sha256"] == [hashlib.sha256(str(n).encode()).hexdigest() for n in numbers(parts[part])]
    # The images are known by their content, wherever they are.
    written = file.read_bytes()
    (tmp_path / "data").rename(tmp_path / "moved")
    again = vaihingen_split(tmp_path / "moved", num_training=5, num_validation=2, split_file=str(file))
    assert numbers(again["test"]) == [5, 6, 7]
    assert file.read_bytes() == written
    # What reads the split files of other datasets reads this one.
    assert numbers(evaluation_datalist(tmp_path / "moved", file)) == [3, 4, 5, 6, 7]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_training": 4, "num_validation": 2}, "records 3 images for training; found 2 with num_training=4"),
        ({"num_training": 5, "num_validation": 1}, "records 3 images for training; found 4 with num_training=5"),
        ({"num_training": 6, "num_validation": 3}, "records 2 images for validation; found 3"),
    ],
)
def test_split_file_of_other_numbers(tmp_path, settings, message):
    root, file = dataset(tmp_path / "data", range(8)), tmp_path / "split.json"
    vaihingen_split(root, num_training=5, num_validation=2, split_file=file)
    with pytest.raises(DatasetError) as caught:
        vaihingen_split(root, **settings, split_file=file)
    assert str(file) in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize(("changed", "part", "same"), [(1, "training", 2), (4, "validation", 1)])
def test_split_file_of_other_images(tmp_path, changed, part, same):
    root, file = dataset(tmp_path / "data", range(8)), tmp_path / "split.json"
    numbers = {"num_training": 5, "num_validation": 2}
    vaihingen_split(root, **numbers, split_file=file)
    (root / "images" / "building_7.tif").write_text("another test image")
    vaihingen_split(root, **numbers, split_file=file)
    (root / "images" / f"building_{changed}.tif").write_text("another image")
    with pytest.raises(DatasetError, match=f"for {part}; .* {same} of them the same"):
        vaihingen_split(root, **numbers, split_file=file)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"training_sha256": 3, "validation_sha256": []}', "null"])
def test_bad_split_file(tmp_path, content):
    root, file = dataset(tmp_path / "data", range(8)), tmp_path / "split.json"
    file.write_text(content)
    with pytest.raises(DatasetError, match="this split file cannot be read") as caught:
        vaihingen_split(root, num_training=5, num_validation=2, split_file=file)
    assert str(file) in str(caught.value)
    assert file.read_text() == content


def test_split_file_that_cannot_be_written(tmp_path):
    root = dataset(tmp_path / "data", range(8))
    (tmp_path / "blocked").touch()
    with pytest.raises(DatasetError, match="cannot be written"):
        vaihingen_split(root, num_training=5, num_validation=2, split_file=tmp_path / "blocked" / "split.json")
