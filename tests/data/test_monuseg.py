# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import logging
from pathlib import Path

import pytest

from monai_segdiff.data import monuseg_datalist
from monai_segdiff.exceptions import DatasetError

MONUSEG = Path(__file__).parents[2].parent / "shared" / "data" / "monuseg"


def touch(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


LAYOUTS = {
    "official training": ("Tissue Images/{}.tif", "Annotations/{}.xml"),
    "underscore": ("Tissue_Images/{}.tif", "Annotations/{}.xml"),
    "nested": ("MoNuSeg 2018 Training Data/Tissue Images/{}.tif", "MoNuSeg 2018 Training Data/Annotations/{}.xml"),
    "flat test": ("{}.tif", "{}.xml"),
    "nested flat test": ("MoNuSegTestData/{}.tif", "MoNuSegTestData/{}.xml"),
    "upper case": ("IMAGES/{}.TIF", "LABELS/{}.PNG"),
    "labels": ("images/{}.png", "labels/{}.png"),
    "masks": ("images/{}.tif", "masks/{}.png"),
    "annotations": ("images/{}.jpg", "annotations/{}.xml"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(tmp_path, layout):
    image, label = LAYOUTS[layout]
    touch(tmp_path, *(pattern.format(name) for pattern in (image, label) for name in ("b.1", "a", "c")))
    touch(tmp_path, "._x.tif", "Thumbs.db", image.replace("{}", "._a"))
    expected = [
        {"name": n, "image": str(tmp_path / image.format(n)), "label": str(tmp_path / label.format(n))}
        for n in ("a", "b.1", "c")
    ]
    assert monuseg_datalist(tmp_path) == expected
    assert monuseg_datalist(str(tmp_path)) == expected


def test_paths_are_absolute(tmp_path, monkeypatch):
    touch(tmp_path, "set/images/a.png", "set/labels/a.png")
    monkeypatch.chdir(tmp_path)
    assert monuseg_datalist("set")[0]["image"] == str(tmp_path / "set/images/a.png")


def test_labels_are_preferred_to_annotations(tmp_path):
    touch(tmp_path, "images/a.tif", "images/b.tif", "annotations/a.xml", "labels/a.png", "labels/b.png", "masks/a.png")
    assert [Path(e["label"]).parent.name for e in monuseg_datalist(tmp_path)] == ["labels", "labels"]


def test_annotation_without_image_is_a_warning(tmp_path, caplog):
    touch(tmp_path, "images/a.tif", "labels/a.png", "labels/b.png")
    with caplog.at_level(logging.WARNING):
        assert len(monuseg_datalist(tmp_path)) == 1
    assert "b.png" in caplog.text


BAD = {
    "empty": ((), "is empty"),
    "no layout": (("a.txt", "other/b.txt"), "'a.txt', 'other'"),
    "images alone": (("images/a.tif",), "no known dataset layout"),
    "flat without xml": (("a.tif", "a.png"), "no known dataset layout"),
    "no image": (("images/a.txt", "labels/a.png"), "holds no image"),
    "no annotation": (("images/a.tif", "images/b.tif", "labels/a.png"), "1 of 2 images"),
    "many without": (("labels/x.png", *(f"images/{i}.tif" for i in range(9))), "4.tif and 4 more"),
    "same image twice": (("images/a.tif", "images/a.png", "labels/a.png"), "name 'a'"),
    "same label twice": (("images/a.tif", "labels/a.png", "labels/a.xml"), "name 'a'"),
    "two datasets": (("x/images/a.tif", "x/labels/a.png", "y/a.tif", "y/a.xml"), "'x', 'y'"),
    "too deep": (("x/y/images/a.tif", "x/y/labels/a.png"), "no known dataset layout"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_folders(tmp_path, case):
    names, message = BAD[case]
    touch(tmp_path, *names)
    with pytest.raises(DatasetError) as caught:
        monuseg_datalist(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert message in str(caught.value)


def test_missing_folder_and_file(tmp_path):
    with pytest.raises(DatasetError, match=r"gone: .*does not exist; expected 'Tissue Images"):
        monuseg_datalist(tmp_path / "gone")
    with pytest.raises(DatasetError, match="is a file"):
        monuseg_datalist(touch(tmp_path, "a.zip") / "a.zip")


def test_real_data():
    if not MONUSEG.is_dir():
        pytest.skip(f"{MONUSEG} not present")
    train, validation = monuseg_datalist(MONUSEG / "train"), monuseg_datalist(MONUSEG / "validation")
    assert (len(train), len(validation)) == (30, 7)
    assert all(Path(e["image"]).is_file() and Path(e["label"]).parent.name == "labels" for e in train + validation)
    with pytest.raises(DatasetError, match="'train', 'validation'"):
        monuseg_datalist(MONUSEG)
