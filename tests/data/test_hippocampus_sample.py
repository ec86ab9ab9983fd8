# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.transforms import LoadImage
from scipy import ndimage

from monai_segdiff.data import VolumeReader, decathlon_datalist, decathlon_split, generate_hippocampus_sample
from monai_segdiff.exceptions import DatasetError


def content(root: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    volumes = {str(path.relative_to(root)): nib.load(path) for path in sorted(root.glob("*/*.nii.gz"))}
    return {name: (np.asarray(volume.dataobj), volume.affine) for name, volume in volumes.items()}


def same(one: dict[str, tuple], other: dict[str, tuple]) -> bool:
    return one.keys() == other.keys() and all(
        np.array_equal(a, b) for key in one for a, b in zip(one[key], other[key], strict=True)
    )


@pytest.fixture(scope="module")
def sample(tmp_path_factory) -> Path:
    return generate_hippocampus_sample(tmp_path_factory.mktemp("sample") / "new" / "set", num_volumes=12)


def test_files(sample):
    parts = decathlon_split(sample)
    assert [len(entries) for entries in parts.values()] == [9, 3]
    entries = decathlon_datalist(sample)
    assert [entry["name"] for entry in entries] == [f"hippocampus_{n:03d}" for n in range(1, 13)]
    assert json.loads((sample / "hippocampus_sample.json").read_text())["settings"]["num_volumes"] == 12
    assert sorted(path.name for path in sample.iterdir()) == ["hippocampus_sample.json", "imagesTr", "labelsTr"]
    shapes, oblique = set(), []
    for entry in entries:
        image, label = nib.load(entry["image"]), nib.load(entry["label"])
        assert (image.get_data_dtype(), label.get_data_dtype()) == (np.int16, np.uint8)
        assert image.shape == label.shape
        assert all(abs(n - expected) <= 2 for n, expected in zip(image.shape, (32, 40, 32), strict=True))
        assert np.array_equal(image.affine, label.affine)
        assert image.header["sform_code"] == image.header["qform_code"] == 1
        np.testing.assert_allclose(image.get_qform(), image.affine, atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(image.affine[:3, :3], axis=0), 1, atol=1e-6)
        assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
        assert set(np.unique(label.dataobj)) == {0, 1, 2}
        LoadImage(reader=VolumeReader)(entry["image"])
        LoadImage(reader=VolumeReader(num_classes=3))(entry["label"])
        shapes.add(image.shape)
        oblique.append(not np.array_equal(image.affine[:3, :3], np.eye(3)))
    assert len(shapes) > 5
    assert oblique == [False, False, True] * 4


def test_same_seed_same_voxels(sample, tmp_path):
    few = content(generate_hippocampus_sample(tmp_path / "again", num_volumes=2))
    assert list(few) == [f"{f}/hippocampus_{n:03d}.nii.gz" for f in ("imagesTr", "labelsTr") for n in (1, 2)]
    assert same(few, {name: content(sample)[name] for name in few}), "volumes do not depend on their number"
    other = content(generate_hippocampus_sample(tmp_path / "other", num_volumes=2, seed=1))
    assert not any(np.array_equal(few[name][0], other[name][0]) for name in few)
    assert not np.array_equal(*(few[f"labelsTr/hippocampus_00{n}.nii.gz"][0] for n in (1, 2)))


def test_second_call_does_nothing(tmp_path):
    generate_hippocampus_sample(tmp_path, num_volumes=2)
    times = {path: os.stat(path).st_mtime_ns for path in tmp_path.rglob("*.*")}
    assert generate_hippocampus_sample(str(tmp_path), num_volumes=2) == tmp_path
    with pytest.raises(DatasetError, match="num_volumes=2, expected 3"):
        generate_hippocampus_sample(tmp_path, num_volumes=3)
    assert times == {path: os.stat(path).st_mtime_ns for path in tmp_path.rglob("*.*")}


@pytest.mark.parametrize("name", ["imagesTr/hippocampus_001.nii.gz", "labelsTr/notes.txt", "mine"])
def test_files_of_the_user_are_not_touched(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"precious")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DatasetError, match=str(tmp_path)):
        generate_hippocampus_sample(tmp_path, num_volumes=2)
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / name).read_bytes() == b"precious"


@pytest.mark.parametrize("settings", [{"num_volumes": 0}, {"num_volumes": 1000}, {"seed": -1}])
def test_settings_out_of_range(tmp_path, settings):
    (name,) = settings
    with pytest.raises(DatasetError, match=f"{name}={settings[name]}"):
        generate_hippocampus_sample(tmp_path / "x", **settings)
    assert not (tmp_path / "x").exists()


def test_an_interrupted_run_leaves_nothing(tmp_path, monkeypatch):
    saved = nib.save

    def interrupted(image, path):
        saved(image, path)
        if "hippocampus_002" in str(path):
            raise KeyboardInterrupt

    monkeypatch.setattr(nib, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        generate_hippocampus_sample(tmp_path / "x", num_volumes=3)
    assert not list(tmp_path.iterdir())


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return 2 * (one & other).sum() / (one.sum() + other.sum())


def test_neither_trivial_nor_strange(sample):
    found = content(sample)
    names = sorted(name.split("/")[1] for name in found if name.startswith("labels"))
    images, labels = ([found[f"{f}/{name}"][0] for name in names] for f in ("imagesTr", "labelsTr"))
    for image, label in zip(images, labels, strict=True):
        assert all(0.007 < (label == part).mean() < 0.05 for part in (1, 2))
        whole = label > 0
        assert whole[1:-1, 1:-1, 1:-1].sum() == whole.sum(), "nothing is cut off"
        main = ndimage.label(whole)[0]
        assert np.bincount(main[whole]).max() > 0.98 * whole.sum(), "one structure"
        assert (ndimage.binary_dilation(label == 1) & (label == 2)).sum() > 10, "whose parts touch"
        anterior, posterior = (np.argwhere(label == part).mean(axis=0) for part in (1, 2))
        assert anterior[1] > posterior[1] + 5, "the first to the front of the second"
        assert image.min() >= 0
        z = (image - image.mean()) / image.std()
        assert z[whole].mean() < 0
        assert z[whole].std() < 0.6
        steps = np.linspace(-2, 1, 16)
        bands = [(z > low) & (z < high) for low in steps for high in steps if high > low]
        assert max(dice(whole, band) for band in bands) < 0.5, "no threshold finds it"
    # nor does its mean place, although it is a help
    corner = [label[:30, :38, :30] > 0 for label in labels]
    means = [np.mean(corner[:k] + corner[k + 1 :], axis=0) > 0.5 for k in range(len(corner))]
    assert 0.3 < np.mean([dice(*pair) for pair in zip(corner, means, strict=True)]) < 0.75
