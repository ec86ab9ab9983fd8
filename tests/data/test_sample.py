# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from monai_segdiff.data import generate_sample_dataset, monuseg_datalist
from monai_segdiff.exceptions import DatasetError

SMALL = {"num_images": 3, "image_size": 96}


def pixels(root: Path) -> dict[str, np.ndarray]:
    return {str(p.relative_to(root)): np.asarray(Image.open(p)) for p in sorted(root.glob("*/*.png"))}


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[key], other[key]) for key in one)


@pytest.fixture(scope="module")
def sample(tmp_path_factory) -> Path:
    return generate_sample_dataset(tmp_path_factory.mktemp("sample") / "new" / "set", **SMALL)


def test_files(sample):
    entries = monuseg_datalist(sample)
    assert [entry["name"] for entry in entries] == ["sample_000", "sample_001", "sample_002"]
    for entry in entries:
        image, label = np.asarray(Image.open(entry["image"])), np.asarray(Image.open(entry["label"]))
        assert (image.shape, image.dtype) == ((96, 96, 3), np.uint8)
        assert (label.shape, label.dtype) == ((96, 96), np.uint8)
        assert set(np.unique(label)) == {0, 255}
    assert json.loads((sample / "sample_set.json").read_text())["num_images"] == 3
    assert not [p for p in sample.rglob("*") if p.name.startswith(".")]


def test_same_seed_same_pixels(sample, tmp_path):
    assert same(pixels(sample), pixels(generate_sample_dataset(tmp_path / "again", **SMALL)))
    other = pixels(generate_sample_dataset(tmp_path / "other", **SMALL, seed=1))
    assert not any(np.array_equal(value, other[key]) for key, value in pixels(sample).items())


def test_pictures_do_not_depend_on_their_number(sample, tmp_path):
    one = pixels(generate_sample_dataset(tmp_path, num_images=1, image_size=96))
    assert len(one) == 2
    assert all(np.array_equal(value, pixels(sample)[key]) for key, value in one.items())


def test_second_call_does_nothing(tmp_path):
    generate_sample_dataset(tmp_path, **SMALL)
    times = {path: os.stat(path).st_mtime_ns for path in tmp_path.rglob("*.*")}
    assert generate_sample_dataset(str(tmp_path), **SMALL) == tmp_path
    assert times == {path: os.stat(path).st_mtime_ns for path in tmp_path.rglob("*.*")}


@pytest.mark.parametrize("damage", ["no marker", "broken marker", "no label", "half picture"])
def test_incomplete_set_is_completed(sample, tmp_path, damage):
    generate_sample_dataset(tmp_path, **SMALL)
    if damage == "broken marker":
        (tmp_path / "sample_set.json").write_text("{")
    elif damage == "no label":
        (tmp_path / "labels" / "sample_001.png").unlink()
    else:
        (tmp_path / "sample_set.json").unlink()
    if damage == "half picture":
        (tmp_path / "images" / "sample_002.png").write_bytes(b"\x89PNG")
    generate_sample_dataset(tmp_path, **SMALL)
    assert same(pixels(sample), pixels(tmp_path))


def test_other_settings_replace_the_set(tmp_path):
    generate_sample_dataset(tmp_path, **SMALL)
    generate_sample_dataset(tmp_path, num_images=2, image_size=64)
    assert [value.shape[0] for value in pixels(tmp_path).values()] == [64] * 4


@pytest.mark.parametrize("name", ["images/mine.png", "labels/notes.txt", "images/sample_1.png"])
@pytest.mark.parametrize("marker", [False, True])
def test_files_of_the_user_are_not_touched(tmp_path, name, marker):
    (tmp_path / name).parent.mkdir()
    (tmp_path / name).write_bytes(b"precious")
    if marker:
        (tmp_path / "sample_set.json").write_text("{}")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DatasetError, match=Path(name).name):
        generate_sample_dataset(tmp_path, **SMALL)
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / name).read_bytes() == b"precious"


@pytest.mark.parametrize("settings", [{"num_images": 0}, {"num_images": 1001}, {"image_size": 63}, {"seed": -1}])
def test_settings_out_of_range(tmp_path, settings):
    with pytest.raises(DatasetError, match=str(tmp_path)):
        generate_sample_dataset(tmp_path / "x", **settings)
    assert not (tmp_path / "x").exists()


def test_output_dir_is_a_file(tmp_path):
    (tmp_path / "x").touch()
    with pytest.raises(DatasetError, match="cannot be written"):
        generate_sample_dataset(tmp_path / "x", **SMALL)


def test_an_interrupted_run_leaves_no_marker_and_no_half_picture(tmp_path, monkeypatch):
    generate_sample_dataset(tmp_path, **SMALL)
    saved = Image.Image.save

    def interrupted(self, path, **kwargs):
        saved(self, path, **kwargs)
        if "sample_001" in str(path):
            raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        generate_sample_dataset(tmp_path, **SMALL, seed=5)
    assert not (tmp_path / "sample_set.json").exists()
    for path in tmp_path.glob("*/*"):
        Image.open(path).load()


def test_neither_trivial_nor_strange(tmp_path):
    pictures = pixels(generate_sample_dataset(tmp_path, num_images=4, image_size=400))
    labels = np.stack([value for key, value in pictures.items() if key.startswith("labels")]) > 0
    images = np.stack([value for key, value in pictures.items() if key.startswith("images")]).astype(int)
    assert all(0.15 <= share <= 0.30 for share in labels.mean(axis=(1, 2)))
    for channel in range(3):
        values = images[..., channel]
        dice = [2 * (labels & (values < t)).sum() / (labels.sum() + (values < t).sum()) for t in range(40, 240, 4)]
        assert max(dice) < 0.9
    # nuclei are bluer and darker than the rest, and the rest is pink
    inside, outside = images[labels].mean(axis=0), images[~labels].mean(axis=0)
    assert inside[0] < outside[0] - 40
    assert outside[0] > outside[2] > outside[1]
