# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from monai_segdiff.data.prepare_folder import prepare_folder
from monai_segdiff.exceptions import DatasetError

MARKER = "made.json"
SETTINGS = {"seed": 0, "size": [1, 2]}


def write(folder: Path) -> dict[str, Any]:
    (folder / "a").mkdir()
    (folder / "a" / "b.txt").write_text("content")
    return {"files": 1}


def refuse(folder: Path) -> dict[str, Any]:
    raise AssertionError("must not be called")


def test_folder_is_filled_once(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "folder"
    assert prepare_folder(str(target), MARKER, SETTINGS, write) == target
    assert sorted(path.name for path in target.rglob("*")) == ["a", "b.txt", MARKER]
    assert json.loads((target / MARKER).read_text()) == {"settings": SETTINGS, "files": 1}
    # a tuple is a list in JSON
    assert prepare_folder(target, MARKER, {"seed": 0, "size": (1, 2)}, refuse) == target
    assert [path.name for path in target.parent.iterdir()] == ["folder"]


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    prepare_folder(tmp_path, MARKER, SETTINGS, write)
    assert (tmp_path / "a" / "b.txt").is_file()


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({"seed": 1, "size": [1, 2]}, "seed=0, expected 1; differing settings: ['seed']"),
        ({"seed": 0}, "size=[1, 2], expected None; differing settings: ['size']"),
        ({**SETTINGS, "new": "x"}, "new=None, expected 'x'; differing settings: ['new']"),
    ],
)
def test_other_settings_are_refused(tmp_path: Path, settings: dict[str, Any], found: str) -> None:
    prepare_folder(tmp_path, MARKER, SETTINGS, write)
    with pytest.raises(DatasetError) as caught:
        prepare_folder(tmp_path, MARKER, settings, refuse)
    assert found in str(caught.value)
    assert str(tmp_path / MARKER) in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"settings": 3}', "\udcff"])
def test_damaged_marker(tmp_path: Path, text: str) -> None:
    (tmp_path / MARKER).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(DatasetError, match=f"{MARKER}: cannot be read .* Remove that folder"):
        prepare_folder(tmp_path, MARKER, SETTINGS, refuse)


def test_what_the_user_has_there_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(DatasetError, match=f"found mine.txt, but no {MARKER}; expected a new or empty folder"):
        prepare_folder(tmp_path, MARKER, SETTINGS, refuse)
    with pytest.raises(DatasetError, match="found a file, but no"):
        prepare_folder(tmp_path / "mine.txt", MARKER, SETTINGS, refuse)
    with pytest.raises(DatasetError, match=r"mine.txt.folder: cannot be written .* expected a writable folder"):
        prepare_folder(tmp_path / "mine.txt" / "folder", MARKER, SETTINGS, refuse)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["precious"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, DatasetError])
def test_nothing_is_left_when_writing_fails(tmp_path: Path, error: type[BaseException]) -> None:
    def fail(folder: Path) -> dict[str, Any]:
        write(folder)
        raise error

    with pytest.raises(error):
        prepare_folder(tmp_path / "folder", MARKER, SETTINGS, fail)
    assert not list(tmp_path.iterdir())
