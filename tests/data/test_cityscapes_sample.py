# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from monai_segdiff.data import (
    CityscapesAnnotation,
    cityscapes_split,
    generate_cityscapes_sample,
    prepare_cityscapes_crops,
)
from monai_segdiff.exceptions import DatasetError

SMALL = {"num_images": 5, "image_size": (128, 160)}


def content(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.glob("*/*/*/*"))}


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate_cityscapes_sample(tmp_path_factory.mktemp("sample") / "new" / "set", **SMALL)


@pytest.fixture(scope="module")
def default(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate_cityscapes_sample(tmp_path_factory.mktemp("sample") / "default")


def test_files(sample: Path) -> None:
    places = ["train/aachen", "train/weimar", "val/frankfurt", "train/bremen", "train/zurich"]
    names = [f"{place}/{place.split('/')[1]}_{i:06d}_000019" for i, place in enumerate(places)]
    images = {f"leftImg8bit/{name}_leftImg8bit.png" for name in names}
    assert content(sample).keys() == images | {f"gtFine/{name}_gtFine_polygons.json" for name in names}
    for name in images:
        picture = np.asarray(Image.open(sample / name))
        assert (picture.shape, picture.dtype) == ((128, 160, 3), np.uint8)
    settings = {"format_version": 1, "num_images": 5, "image_size": [128, 160], "seed": 0}
    assert json.loads((sample / "sample_set.json").read_text()) == {"settings": settings}


def test_same_seed_same_files(sample: Path, tmp_path: Path) -> None:
    assert content(generate_cityscapes_sample(tmp_path / "again", **SMALL)) == content(sample)
    other = content(generate_cityscapes_sample(tmp_path / "other", **SMALL, seed=1))
    assert other.keys() == content(sample).keys()
    assert all(value != other[name] for name, value in content(sample).items())


def test_images_do_not_depend_on_their_number(sample: Path, tmp_path: Path) -> None:
    more = content(generate_cityscapes_sample(tmp_path, **{**SMALL, "num_images": 7}))
    assert len(more) == 14
    assert content(sample).items() <= more.items()


def test_second_call_does_nothing_and_other_settings_are_refused(tmp_path: Path) -> None:
    generate_cityscapes_sample(tmp_path, **SMALL)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert generate_cityscapes_sample(str(tmp_path), **SMALL) == tmp_path
    with pytest.raises(DatasetError, match="seed=0, expected 1"):
        generate_cityscapes_sample(tmp_path, **SMALL, seed=1)
    assert times == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}


@pytest.mark.parametrize(
    "settings",
    [{"num_images": 4}, {"num_images": 1001}, {"image_size": (127, 512)}, {"image_size": (512, 9)}, {"seed": -1}],
)
def test_settings_out_of_range(tmp_path: Path, settings: dict) -> None:
    with pytest.raises(DatasetError, match=f"{tmp_path}/x: num_images=.* expected 5 to 1000 images of at least 128"):
        generate_cityscapes_sample(tmp_path / "x", **settings)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("class_name", ["bus", "car"])
def test_every_part_has_crops(sample: Path, default: Path, tmp_path: Path, class_name: str) -> None:
    for i, root in enumerate((sample, default)):
        crops = prepare_cityscapes_crops(root, tmp_path / str(i), class_name, progress=False)
        images = {
            part: {entry["name"].rsplit("_", 1)[0] for entry in entries}
            for part, entries in cityscapes_split(crops).items()
        }
        cities = Counter({part: len(names) for part, names in images.items()})
        expected = (
            {"training": 2, "validation": 2, "test": 1}
            if root == sample
            else {"training": 12, "validation": 4, "test": 4}
        )
        assert cities == expected


def test_neither_trivial_nor_strange(default: Path) -> None:
    """Vehicles cover one another, and their outlines are edges in the picture."""
    whole, partly = 0, 0
    for path in sorted((default / "gtFine").rglob("*.json")):
        annotation = CityscapesAnnotation(path)
        name = str(path).replace("gtFine_polygons.json", "leftImg8bit.png").replace("/gtFine/", "/leftImg8bit/")
        picture = np.asarray(Image.open(name)).astype(float)
        edges = sum(ndimage.gaussian_gradient_magnitude(picture[..., channel], 1.0) for channel in range(3))
        counted = Counter(annotation.labels)
        assert counted["bus"] >= 1
        assert counted["car"] >= 1
        for index, label in enumerate(annotation.labels):
            if label not in ("bus", "car") or annotation.visible(index) is None:
                continue
            (top, left), mask = annotation.visible(index)
            placed = np.zeros(annotation.size, bool)
            placed[top : top + mask.shape[0], left : left + mask.shape[1]] = mask
            outline = placed & ~ndimage.binary_erosion(placed, border_value=1)
            assert edges[outline].mean() > 1.5 * edges.mean()
            alone = CityscapesAnnotation(path)
            alone.labels[index + 1 :] = [None] * (len(alone.labels) - index - 1)
            covered = 1 - mask.sum() / alone.visible(index)[1].sum()
            whole += covered == 0
            partly += 0.02 < covered < 1
    assert whole >= 10
    assert partly >= 10
