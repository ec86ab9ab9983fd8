# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path

import pytest

from monai_segdiff.data import decathlon_datalist, decathlon_split
from monai_segdiff.exceptions import DatasetError


def dataset(root: Path, names: list[str], suffix: str = ".nii.gz") -> Path:
    for name in names:
        for folder in ("imagesTr", "labelsTr"):
            (root / folder).mkdir(parents=True, exist_ok=True)
            (root / folder / f"{name}{suffix}").write_text(name)  # no volume, but another content for every name
    return root


def numbered(count: int) -> list[str]:
    return [f"hippocampus_{i:03d}" for i in range(count)]


def names(entries: list[dict[str, str]]) -> list[str]:
    return [entry["name"] for entry in entries]


def test_datalist(tmp_path):
    dataset(tmp_path, ["b", "a.1"])
    dataset(tmp_path, ["c"], ".NII")
    for name in ("._a.1.nii.gz", ".hidden.nii", "notes.txt"):
        (tmp_path / "imagesTr" / name).touch()
    (tmp_path / "dataset.json").write_text("not read")
    images, labels = tmp_path / "imagesTr", tmp_path / "labelsTr"
    assert decathlon_datalist(str(tmp_path)) == [
        {"name": "a.1", "image": str(images / "a.1.nii.gz"), "label": str(labels / "a.1.nii.gz")},
        {"name": "b", "image": str(images / "b.nii.gz"), "label": str(labels / "b.nii.gz")},
        {"name": "c", "image": str(images / "c.NII"), "label": str(labels / "c.NII")},
    ]


def test_a_label_may_be_compressed_alone(tmp_path):
    dataset(tmp_path, ["a"])
    (tmp_path / "imagesTr" / "a.nii.gz").rename(tmp_path / "imagesTr" / "a.nii")
    assert names(decathlon_datalist(tmp_path)) == ["a"]


BAD = {
    "no folder": (lambda r: r / "gone", "gone/imagesTr: this folder does not exist"),
    "no labels": (lambda r: (r / "labelsTr").rename(r / "x").parent, "labelsTr: this folder does not exist"),
    "empty": (lambda r: (r / "imagesTr" / "a.nii.gz").unlink(), "imagesTr: holds no volume"),
    "no label": (lambda r: (r / "imagesTr" / "b.nii").touch(), "1 files have no partner in the other folder: {}/imag"),
    "no image": (lambda r: (r / "labelsTr" / "b.nii").touch(), "1 files have no partner in the other folder: {}/labe"),
    "a name twice": (lambda r: (r / "imagesTr" / "a.nii").touch(), "two files of the name 'a'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_folder_is_named(tmp_path, case):
    change, message = BAD[case]
    root = change(dataset(tmp_path, ["a"])) or tmp_path
    with pytest.raises(DatasetError) as caught:
        decathlon_datalist(root)
    assert message.format(tmp_path) in str(caught.value)


@pytest.mark.parametrize(("count", "folds", "held"), [(209, 5, 42), (10, 5, 2), (11, 5, 3), (2, 5, 1), (7, 3, 3)])
def test_every_fifth_validates(tmp_path, count, folds, held):
    parts = decathlon_split(dataset(tmp_path, numbered(count)), num_folds=folds)
    assert list(parts) == ["training", "validation"]
    assert len(parts["validation"]) == held
    assert names(parts["validation"]) == numbered(count)[::folds]
    assert sorted(names(parts["training"] + parts["validation"])) == numbered(count)
    assert names(parts["training"]) == sorted(names(parts["training"]))


@pytest.mark.parametrize(("count", "folds"), [(1, 5), (5, 1), (5, 0), (5, -1)])
def test_no_part_is_empty(tmp_path, count, folds):
    with pytest.raises(DatasetError, match=f"{tmp_path}: {count} volumes with num_folds={folds}"):
        decathlon_split(dataset(tmp_path, numbered(count)), num_folds=folds)


def test_an_image_in_both_parts(tmp_path):
    root = dataset(tmp_path, numbered(3))
    (root / "imagesTr" / "hippocampus_002.nii.gz").write_text("hippocampus_000")
    with pytest.raises(DatasetError, match=f"{tmp_path}: the same image is in both parts: hippocampus_000"):
        decathlon_split(root)


def test_split_file_is_written_and_used(tmp_path, caplog):
    root, file = dataset(tmp_path / "data", numbered(6)), tmp_path / "out" / "split.json"
    parts = decathlon_split(root, split_file=file)
    content = json.loads(file.read_text())
    assert {part: content[part] for part in parts} == parts
    assert content["training_sha256"] == [
        hashlib.sha256(name.encode()).hexdigest() for name in names(parts["training"])
    ]
    dataset(root, ["added"])
    with caplog.at_level(logging.WARNING):
        assert decathlon_split(root, num_folds=2, split_file=str(file)) == parts
    assert not caplog.records
    decathlon_split(dataset(tmp_path / "other", numbered(2)), split_file=file)
    assert "6 images lie outside the dataset folders given" in caplog.text
    (root / "labelsTr" / "hippocampus_001.nii.gz").unlink()
    with pytest.raises(DatasetError, match=r"do not exist: .*hippocampus_001\.nii\.gz"):
        decathlon_split(root, split_file=file)
