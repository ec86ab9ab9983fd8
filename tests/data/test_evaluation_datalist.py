# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from monai_segdiff.data import decathlon_datalist, decathlon_split, evaluation_datalist, monuseg_datalist, monuseg_split
from monai_segdiff.exceptions import DatasetError

TCGA = [f"TCGA-AB-{p:04d}-01Z-00-DX{i}" for p in range(5) for i in (1, 2)]


def dataset(root: Path, names: list[str]) -> Path:
    for name in names:
        for path in (root / "images" / f"{name}.tif", root / "labels" / f"{name}.png"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(name)  # no picture, but another content for every name
    return root


def names(entries: list[dict[str, str]]) -> list[str]:
    return [entry["name"] for entry in entries]


def test_evaluation_leaves_the_training_images_out(tmp_path, caplog):
    data, file = dataset(tmp_path / "data", TCGA), tmp_path / "split.json"
    with caplog.at_level(logging.WARNING):
        assert evaluation_datalist(data) == monuseg_datalist(data)
        assert evaluation_datalist(data, file) == monuseg_datalist(data)
    assert caplog.text.count("the split of the training is not known") == 2
    parts = monuseg_split(data, split_file=file)
    with caplog.at_level(logging.INFO):
        assert evaluation_datalist(data, file) == parts["validation"]
    assert "Left out 8 of 10 images" in caplog.text
    # Images are known by their content: other images of the same names stay, copies under other names do not.
    others = dataset(tmp_path / "others", names(parts["training"])[:1])
    (others / "images" / f"{parts['training'][0]['name']}.tif").write_text("another image")
    assert len(evaluation_datalist(others, file)) == 1
    copy = dataset(tmp_path / "copy", names(parts["training"]))
    for path in sorted(copy.rglob("*.*")):
        path.rename(path.with_name(f"copy-{path.name}"))
    with pytest.raises(DatasetError, match="all 8 images are in the training part"):
        evaluation_datalist(copy, file)
    file.write_text("{}")
    with pytest.raises(DatasetError, match="no 'training' list"):
        evaluation_datalist(data, file)


def test_evaluation_does_not_need_the_training_files(tmp_path):
    file = tmp_path / "split.json"
    monuseg_split(dataset(tmp_path / "moved", TCGA), split_file=file)
    (tmp_path / "moved").rename(tmp_path / "new")
    assert len(evaluation_datalist(tmp_path / "new", file)) == 2


def test_a_split_file_by_hand_is_known_by_names(tmp_path):
    data, file = dataset(tmp_path / "data", ["a", "b"]), tmp_path / "split.json"
    entries = monuseg_datalist(data)
    file.write_text(json.dumps({"training": entries[:1], "validation": entries[1:]}))
    assert names(evaluation_datalist(data, file)) == ["b"]


def test_volumes(tmp_path):
    for folder in ("imagesTr", "labelsTr"):
        (tmp_path / folder).mkdir()
        for name in "abcdef":
            (tmp_path / folder / f"{name}.nii.gz").write_text(name)
    file = tmp_path / "split.json"
    parts = decathlon_split(tmp_path, split_file=file)
    assert evaluation_datalist(tmp_path, file, decathlon_datalist) == parts["validation"]
    (tmp_path / "imagesTr" / "b.nii.gz").write_text("another volume")
    assert names(evaluation_datalist(tmp_path, file, datalist=decathlon_datalist)) == ["a", "b", "f"]
