# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage.measure import label as components
from skimage.measure import regionprops

from monai_segdiff.data import generate_vaihingen_sample, vaihingen_split
from monai_segdiff.exceptions import DatasetError

SMALL = {"num_images": 3, "image_size": 64}


def pixels(root: Path) -> dict[str, np.ndarray]:
    return {str(p.relative_to(root)): np.asarray(Image.open(p)) for p in sorted(root.glob("*/*.png"))}


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[key], other[key]) for key in one)


@pytest.fixture(scope="module")
def sample(tmp_path_factory) -> Path:
    return generate_vaihingen_sample(tmp_path_factory.mktemp("sample") / "new" / "set", **SMALL)


def test_files(sample):
    parts = vaihingen_split(sample, num_training=2, num_validation=1)
    entries = [entry for part in parts.values() for entry in part]
    assert [entry["name"] for entry in entries] == ["building_1", "building_2", "building_3"]
    for entry in entries:
        image, label = np.asarray(Image.open(entry["image"])), np.asarray(Image.open(entry["label"]))
        assert (image.shape, image.dtype) == ((64, 64, 3), np.uint8)
        assert (label.shape, label.dtype) == ((64, 64), np.uint8)
        assert set(np.unique(label)) == {0, 255}
    assert json.loads((sample / "vaihingen_sample.json").read_text())["settings"]["num_images"] == 3
    assert sorted(path.name for path in sample.iterdir()) == ["images", "labels", "vaihingen_sample.json"]


def test_same_seed_same_pixels(sample, tmp_path):
    assert same(pixels(sample), pixels(generate_vaihingen_sample(tmp_path / "again", **SMALL)))
    other = pixels(generate_vaihingen_sample(tmp_path / "other", **SMALL, seed=1))
    assert not any(np.array_equal(value, other[key]) for key, value in pixels(sample).items())
    assert not np.array_equal(*(pixels(sample)[f"labels/building_{n}.png"] for n in (1, 2)))


def test_pictures_do_not_depend_on_their_number(sample, tmp_path):
    one = pixels(generate_vaihingen_sample(tmp_path, num_images=1, image_size=64))
    assert list(one) == ["images/building_1.png", "labels/building_1.png"]
    assert all(np.array_equal(value, pixels(sample)[key]) for key, value in one.items())


def test_second_call_does_nothing(tmp_path):
    generate_vaihingen_sample(tmp_path, **SMALL)
    times = {path: os.stat(path).st_mtime_ns for path in tmp_path.rglob("*.*")}
    assert generate_vaihingen_sample(str(tmp_path), **SMALL) == tmp_path
    assert times == {path: os.stat(path).st_mtime_ns for path in tmp_path.rglob("*.*")}
    with pytest.raises(DatasetError, match="num_images=3, expected 4"):
        generate_vaihingen_sample(tmp_path, num_images=4, image_size=64)
    assert times == {path: os.stat(path).st_mtime_ns for path in tmp_path.rglob("*.*")}


@pytest.mark.parametrize("name", ["images/building_1.png", "labels/notes.txt", "mine"])
def test_files_of_the_user_are_not_touched(tmp_path, name):
    """Not even under the names of the generated ones, which are those of the real pictures."""
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"precious")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DatasetError, match=str(tmp_path)):
        generate_vaihingen_sample(tmp_path, **SMALL)
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / name).read_bytes() == b"precious"


@pytest.mark.parametrize("settings", [{"num_images": 0}, {"num_images": 1001}, {"image_size": 31}, {"seed": -1}])
def test_settings_out_of_range(tmp_path, settings):
    (name,) = settings
    with pytest.raises(DatasetError, match=f"{name}={settings[name]}"):
        generate_vaihingen_sample(tmp_path / "x", **settings)
    assert not (tmp_path / "x").exists()


def test_an_interrupted_run_leaves_nothing(tmp_path, monkeypatch):
    saved = Image.Image.save

    def interrupted(self, path, **kwargs):
        saved(self, path, **kwargs)
        if "building_2" in str(path):
            raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        generate_vaihingen_sample(tmp_path / "x", **SMALL)
    assert not list(tmp_path.iterdir())


def test_neither_trivial_nor_strange(tmp_path):
    pictures = pixels(generate_vaihingen_sample(tmp_path, num_images=24, image_size=96))
    labels = np.stack([value for key, value in pictures.items() if key.startswith("labels")]) > 0
    images = np.stack([value for key, value in pictures.items() if key.startswith("images")]).astype(int)
    assert all(0.06 <= share <= 0.25 for share in labels.mean(axis=(1, 2)))
    buildings = [regionprops(components(label)) for label in labels]
    assert all(len(found) == 1 for found in buildings), "one building in each"
    assert not any(label[1:-1, 1:-1].sum() < label.sum() for label in labels), "which is whole"
    solidities = [found[0].solidity for found in buildings]
    assert min(solidities) < 0.9, "of an L"
    assert max(solidities) > 0.95, "of a rectangle"
    for channel in range(3):
        values = images[..., channel]
        for mask in (values < threshold for threshold in range(40, 240, 8)):
            for guess in (mask, ~mask):
                assert 2 * (labels & guess).sum() / (labels.sum() + guess.sum()) < 0.6
    # Not far from the normalisation of the benchmark; plants are red, that is, bright in the near infrared.
    assert np.abs(images.mean(axis=(0, 1, 2)) - (120.7, 73.4, 72.7)).max() < 20
    outside = images[~labels].mean(axis=0)
    assert outside[0] > outside[1] + 30
