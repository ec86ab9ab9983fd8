# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest

from monai_segdiff.data import image_datalist
from monai_segdiff.exceptions import DatasetError


@pytest.fixture
def root(tmp_path) -> Path:
    for name in ("b.TIF", "a.png", "c.1.jpeg", "._a.png", "notes.doc"):
        (tmp_path / name).touch()
    return tmp_path


def entry(path: Path) -> dict[str, str]:
    return {"name": path.stem, "image": str(path)}


def test_folder_is_sorted(root):
    assert image_datalist(root) == [entry(root / name) for name in ("a.png", "b.TIF", "c.1.jpeg")]


@pytest.mark.parametrize("inner", ["Tissue Images", "images"])
def test_folder_with_image_folder_inside(root, inner):
    (root / inner).mkdir()
    (root / inner / "z.tif").touch()
    assert image_datalist(str(root)) == [entry(root / inner / "z.tif")]


def test_one_file_and_lists_keep_their_order(root, monkeypatch):
    assert image_datalist(root / "b.TIF") == [entry(root / "b.TIF")]
    wanted = [entry(root / "b.TIF"), entry(root / "a.png")]
    assert image_datalist([root / "b.TIF", str(root / "a.png")]) == wanted
    assert image_datalist((root / "b.TIF", root / "a.png")) == wanted
    monkeypatch.chdir(root)
    assert image_datalist(["b.TIF", "a.png"]) == wanted


def test_text_file_is_relative_to_itself(root, tmp_path):
    (root / "lists").mkdir()
    text = root / "lists" / "some.txt"
    text.write_bytes(f"\ufeff../b.TIF\r\n\r\n  {root / 'a.png'} \n".encode())
    assert image_datalist(text) == [entry(root / "b.TIF"), entry(root / "a.png")]


BAD = {
    "missing folder": (lambda r: r / "gone", "gone"),
    "empty folder": (lambda r: r / "empty", "holds no image"),
    "empty list": (lambda r: [], "names no image"),
    "missing file in list": (lambda r: [r / "a.png", r / "gone.png"], "gone.png does not exist"),
    "folder in list": (lambda r: [r / "empty"], "is a folder"),
    "no image by suffix": (lambda r: r / "notes.doc", "notes.doc is not an image"),
    "same name twice": (lambda r: [r / "a.png", r / "other" / "a.tif"], "name 'a'"),
    "same file twice": (lambda r: [r / "a.png", r / "a.png"], "name 'a'"),
    "empty text": (lambda r: r / "empty.txt", "empty.txt: names no image"),
    "text names missing file": (lambda r: r / "bad.txt", "nowhere.png does not exist"),
    "binary text": (lambda r: r / "binary.txt", "UTF-8"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named(root, case):
    (root / "empty").mkdir()
    (root / "other").mkdir()
    (root / "other" / "a.tif").touch()
    (root / "empty.txt").write_text("\n \n")
    (root / "bad.txt").write_text("nowhere.png\n")
    (root / "binary.txt").write_bytes(b"\xff\xfe\xfa")
    images, message = BAD[case]
    with pytest.raises(DatasetError) as caught:
        image_datalist(images(root))
    assert message in str(caught.value)


def test_same_stem_in_a_folder(root):
    (root / "a.tif").touch()
    with pytest.raises(DatasetError, match="name 'a'"):
        image_datalist(root)
