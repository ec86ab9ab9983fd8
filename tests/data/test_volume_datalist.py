# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest

from monai_segdiff.data import volume_datalist
from monai_segdiff.exceptions import DatasetError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("b.NII.GZ", "a.nii", "c.1.nii.gz", "._a.nii.gz", "scan.gz", "a.png"):
        (tmp_path / name).touch()
    return tmp_path


def test_folder_is_sorted(root: Path) -> None:
    expected = [("a", "a.nii"), ("b", "b.NII.GZ"), ("c.1", "c.1.nii.gz")]
    assert volume_datalist(root) == [{"name": name, "image": str(root / file)} for name, file in expected]


def test_folders_of_the_decathlon(root: Path) -> None:
    for folder, file in (("imagesTr", "x.nii.gz"), ("imagesTs", "y.nii.gz")):
        (root / folder).mkdir()
        (root / folder / file).touch()
        assert volume_datalist(str(root)) == [{"name": file[0], "image": str(root / folder / file)}]
    assert volume_datalist(root / "imagesTr") == [{"name": "x", "image": str(root / "imagesTr" / "x.nii.gz")}]


def test_lists_keep_their_order(root: Path) -> None:
    expected = [{"name": "b", "image": str(root / "b.NII.GZ")}, {"name": "a", "image": str(root / "a.nii")}]
    (root / "list.txt").write_text("b.NII.GZ\na.nii\n")
    assert volume_datalist([root / "b.NII.GZ", root / "a.nii"]) == expected
    assert volume_datalist(root / "list.txt") == expected
    assert volume_datalist(root / "a.nii") == expected[1:]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("scan.gz", "scan.gz is not an image; expected .nii, .nii.gz"),
        ("a.png", "a.png is not an image"),
        ("gone.nii", "does not exist"),
        ("empty", "holds no image; expected files with .nii, .nii.gz"),
    ],
)
def test_bad_input_is_named(root: Path, name: str, message: str) -> None:
    (root / "empty").mkdir()
    with pytest.raises(DatasetError) as caught:
        volume_datalist(root / name)
    assert str(root) in str(caught.value)
    assert message in str(caught.value)


def test_one_volume_twice(root: Path) -> None:
    (root / "a.nii.gz").touch()
    with pytest.raises(DatasetError, match="two files of the name 'a'"):
        volume_datalist(root)
