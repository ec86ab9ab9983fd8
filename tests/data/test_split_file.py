# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import hashlib
import json

import pytest

from monai_segdiff.data.split_file import image_hashes, refuse_shared_images, write_split_file
from monai_segdiff.exceptions import DatasetError


@pytest.fixture
def entries(tmp_path):
    made = []
    for name, content in (("a", b"1"), ("b", b"2"), ("c", b"1"), ("d", b"2")):
        (tmp_path / name).write_bytes(content)
        made.append({"name": name, "image": str(tmp_path / name)})
    return made


def test_image_hashes(entries):
    expected = [hashlib.sha256(content).hexdigest() for content in (b"1", b"2", b"1", b"2")]
    assert image_hashes(entries) == expected
    assert image_hashes([]) == []


def test_shared_images_are_named_by_content(entries):
    a, b, c, d = entries
    refuse_shared_images({"one": [a, c], "two": [b, d], "three": []}, "here")
    with pytest.raises(DatasetError, match=r"^here: the same image is in both parts: c of 'three' \(and in 'one'\)"):
        refuse_shared_images({"one": [a], "two": [b], "three": [c]}, "here")
    with pytest.raises(DatasetError, match=r"c, d of 'two'"):
        refuse_shared_images({"one": [a, b], "two": [d, c]}, "here")


def test_write_split_file(tmp_path):
    write_split_file(tmp_path / "new" / "split.json", {"training": [1]})
    assert json.loads((tmp_path / "new" / "split.json").read_text()) == {"training": [1]}
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["split.json"]
    with pytest.raises(DatasetError, match=r"split\.json: the split file cannot be written"):
        write_split_file(tmp_path / "new" / "split.json" / "split.json", {})
