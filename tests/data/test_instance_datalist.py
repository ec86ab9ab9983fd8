# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest

from monai_segdiff import with_instances
from monai_segdiff.exceptions import DatasetError


def dataset(root: Path, *files: str) -> None:
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


@pytest.mark.parametrize(
    ("label", "others", "expected"),
    [
        ("Annotations/a.xml", ["instances/a.tif"], "Annotations/a.xml"),
        ("labels/a.png", ["instances/a.tif", "annotations/a.xml"], "instances/a.tif"),
        ("labels/a.png", ["Instances/a.png"], "Instances/a.png"),
        ("labels/a.PNG", ["instances/a.TIF"], "instances/a.TIF"),
        ("labels/a.png", ["instances/b.tif", "Annotations/a.xml"], "Annotations/a.xml"),
    ],
)
def test_where_instances_are(tmp_path: Path, label: str, others: list[str], expected: str) -> None:
    dataset(tmp_path, label, *others)
    entry = {"name": "a", "image": "a.tif", "label": str(tmp_path / label)}
    assert with_instances([entry]) == [{**entry, "instances": str(tmp_path / expected)}]


def test_missing_instances(tmp_path: Path) -> None:
    dataset(tmp_path, "labels/a.png", "labels/b.png", "instances/b.tif")
    entries = [{"name": name, "label": str(tmp_path / "labels" / f"{name}.png")} for name in "ab"]
    with pytest.raises(DatasetError, match="no instances for 1 of 2 images: a; expected an annotation"):
        with_instances(entries)


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    dataset(tmp_path, "labels/a.png", "instances/a.tif", "instances/a.png")
    with pytest.raises(DatasetError, match="two files of the name 'a'"):
        with_instances([{"name": "a", "label": str(tmp_path / "labels" / "a.png")}])
