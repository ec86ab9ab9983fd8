# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import hashlib
import json

import pytest

from monai_segdiff.data.split_file import (
    image_hashes,
    read_split_file,
    recorded_split,
    refuse_shared_images,
    write_split_file,
)
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


def test_a_split_is_made_once(tmp_path, entries):
    """The checks of split files are tested with the functions that use them."""
    a, b, c, _ = [{**entry, "label": entry["image"]} for entry in entries]
    path = tmp_path / "out" / "split.json"
    calls = []

    def divide():
        calls.append(1)
        return {"training": [a], "validation": [b]}

    for _ in range(2):
        assert recorded_split(divide, [tmp_path], path) == {"training": [a], "validation": [b]}
    assert len(calls) == 1
    assert read_split_file(path) == recorded_split(divide, [tmp_path], None)
    assert len(calls) == 2
    assert json.loads(path.read_text())["training_sha256"] == image_hashes([a])


@pytest.mark.parametrize(
    ("training", "validation", "message"),
    [("a", "a", "is in both parts"), ("a", "c", "the same image is in both parts"), ("aa", "b", "'a' is twice")],
)
def test_a_bad_split_is_not_recorded(tmp_path, entries, training, validation, message):
    by_name = {entry["name"]: entry for entry in entries}
    parts = {"training": [by_name[n] for n in training], "validation": [by_name[n] for n in validation]}
    with pytest.raises(DatasetError, match=f"^{tmp_path} and /other: .*{message}"):
        recorded_split(lambda: parts, [tmp_path, "/other"], tmp_path / "split.json")
    assert not (tmp_path / "split.json").exists()
