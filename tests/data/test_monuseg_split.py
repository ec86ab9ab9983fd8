# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path

import pytest
from monai.data import load_decathlon_datalist

from monai_segdiff.data import monuseg_datalist, monuseg_split
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


@pytest.mark.parametrize(("fraction", "held"), [(0.2, 2), (0.25, 2), (0.3, 4), (0.01, 2), (0.8, 8)])
def test_fixed_rule_keeps_patients_together(tmp_path, fraction, held):
    parts = monuseg_split(dataset(tmp_path, TCGA), val_fraction=fraction)
    assert len(parts["validation"]) == held
    assert sorted(names(parts["training"]) + names(parts["validation"])) == TCGA
    patients = sorted({name[:12] for name in TCGA}, key=lambda p: hashlib.sha256(p.encode()).hexdigest())
    expected = [name for name in TCGA if name[:12] in patients[: held // 2]]
    assert names(parts["validation"]) == expected
    assert parts == monuseg_split(tmp_path, val_fraction=fraction)


def test_other_names_are_patients_of_their_own(tmp_path):
    parts = monuseg_split(dataset(tmp_path, ["case-1-1-a", "case-1-1-b"]))
    assert len(parts["training"]) == len(parts["validation"]) == 1


@pytest.mark.parametrize(
    ("files", "fraction"),
    [(["a"], 0.2), (TCGA[:2], 0.2), (TCGA, 0.95), (TCGA, 0.0), (TCGA, 1.0), (TCGA, float("nan"))],
)
def test_no_training_image_left(tmp_path, files, fraction):
    with pytest.raises(DatasetError, match="val_fraction"):
        monuseg_split(dataset(tmp_path, files), val_fraction=fraction)


def test_validation_folder(tmp_path, caplog):
    train, val = dataset(tmp_path / "t", TCGA[:3]), dataset(tmp_path / "v", TCGA[3:5])
    with caplog.at_level(logging.WARNING):
        parts = monuseg_split(train, val)
    assert parts == {"training": monuseg_datalist(train), "validation": monuseg_datalist(val)}
    assert "patients in both training and validation: TCGA-AB-0001." in caplog.text
    with pytest.raises(DatasetError, match=f"the same image is in both parts: {TCGA[0]}"):
        monuseg_split(train, dataset(tmp_path / "w", TCGA[:1]))
    (tmp_path / "w" / "images" / f"{TCGA[0]}.tif").write_text("another image of the same name")
    assert names(monuseg_split(train, tmp_path / "w")["validation"]) == TCGA[:1]


def test_split_file_is_written_and_reused(tmp_path):
    data, file = dataset(tmp_path / "data", TCGA), tmp_path / "out" / "deep" / "split.json"
    parts = monuseg_split(data, split_file=file)
    assert [path.name for path in file.parent.iterdir()] == ["split.json"]
    assert load_decathlon_datalist(str(file), data_list_key="validation") == parts["validation"]
    dataset(data, ["added"])
    assert monuseg_split(data, val_fraction=0.6, split_file=str(file)) == parts


def test_split_file_by_hand_may_be_relative(tmp_path, caplog):
    dataset(tmp_path / "data", ["a", "b"])
    entries = [{"name": n, "image": f"data/images/{n}.tif", "label": f"data/labels/{n}.png"} for n in "ab"]
    file = tmp_path / "split.json"
    file.write_text(json.dumps({"training": entries[:1], "validation": entries[1:]}))
    with caplog.at_level(logging.WARNING):
        parts = monuseg_split(tmp_path / "data", split_file=file)
    assert parts["training"] == monuseg_datalist(tmp_path / "data")[:1]
    assert not caplog.records
    monuseg_split(tmp_path / "elsewhere", split_file=file)
    assert "2 images lie outside" in caplog.text


def test_split_file_that_cannot_be_written(tmp_path):
    data = dataset(tmp_path / "data", TCGA)
    (tmp_path / "blocked").touch()
    with pytest.raises(DatasetError, match="cannot be written"):
        monuseg_split(data, split_file=tmp_path / "blocked" / "split.json")


BAD = {
    "not json": ("{", "cannot be read"),
    "empty": ("", "cannot be read"),
    "binary": (b"\xff\xfe\x00", "cannot be read"),
    "a list": ([], "no 'training' list"),
    "no validation": ({"training": ["a"]}, "entry 0 of 'training'"),
    "empty part": ({"training": [], "validation": []}, "no 'training' list"),
    "no label": ({"training": [{"name": "a", "image": "a.tif"}], "validation": []}, "entry 0 of 'training'"),
    "number": ({"training": [{"name": 1, "image": "a", "label": "a"}], "validation": []}, "entry 0"),
    "both parts": ({"training": ["a!"], "validation": ["a!"]}, "images/a.tif' is in both parts"),
    "twice": ({"training": ["a!", "a!"], "validation": ["b!"]}, "'a' is twice in 'training'"),
    "file gone": ({"training": ["a!"], "validation": ["gone!"]}, "gone.tif"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_split_file_is_named(tmp_path, case):
    data = dataset(tmp_path / "data", ["a", "b"])
    content, message = BAD[case]
    file = tmp_path / "split.json"
    if isinstance(content, dict):  # "a!" stands for a whole entry
        content = {
            part: [
                {"name": e[:-1], "image": f"{data}/images/{e[:-1]}.tif", "label": f"{data}/labels/{e[:-1]}.png"}
                if isinstance(e, str) and e.endswith("!")
                else e
                for e in entries
            ]
            for part, entries in content.items()
        }
    if not isinstance(content, (str, bytes)):
        content = json.dumps(content)
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DatasetError) as caught:
        monuseg_split(data, split_file=file)
    assert str(file) in str(caught.value)
    assert message in str(caught.value)
