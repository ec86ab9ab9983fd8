# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path

import pytest

from monai_segdiff import monuseg_datalist
from monai_segdiff.engines import prepare_sample_dataset
from monai_segdiff.exceptions import DatasetError


def test_generates_once_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "sample_data"
    assert prepare_sample_dataset(str(folder)) == folder
    said = capsys.readouterr().out
    assert "Using the generated sample images" in said
    assert str(folder) in said
    assert "--dataset_dir FOLDER" in said
    assert len(monuseg_datalist(folder)) == json.loads((folder / "sample_set.json").read_text())["num_images"] == 20
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*.*")}
    assert prepare_sample_dataset(folder) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.*")} == times
    assert "Using the generated sample images" in capsys.readouterr().out


def test_own_pictures_are_not_touched(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "mine.png").write_bytes(b"precious")
    with pytest.raises(DatasetError, match=r"mine\.png"):
        prepare_sample_dataset(tmp_path)
    assert [path.name for path in tmp_path.rglob("*.*")] == ["mine.png"]
