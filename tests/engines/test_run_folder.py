# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import logging
import os
import re
from pathlib import Path

import pytest

from monai_segdiff.engines import prepare_run_folder
from monai_segdiff.exceptions import CheckpointError, DatasetError


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def earlier_run(folder: Path, text: str) -> None:
    (folder / "overlays").mkdir(parents=True)
    (folder / "checkpoint.pt").write_text(text)
    (folder / "overlays" / "a.png").write_text(text)


def test_new_folder(tmp_path: Path) -> None:
    folder = prepare_run_folder(str(tmp_path / "runs" / "a"))
    assert folder == tmp_path / "runs" / "a"
    assert list((tmp_path / "runs").iterdir()) == [folder]
    assert prepare_run_folder(folder) == folder, "an empty folder is used as it is"
    assert list((tmp_path / "runs").iterdir()) == [folder]


def test_earlier_run_is_moved_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "a"
    earlier_run(folder, "first")
    old = contents(folder)
    with caplog.at_level(logging.WARNING):
        prepare_run_folder(folder)
    assert list(folder.iterdir()) == []
    (aside,) = (path for path in tmp_path.iterdir() if path != folder)
    assert re.fullmatch(r"a-\d{8}-\d{6}", aside.name)
    assert contents(aside) == old
    assert str(aside) in caplog.text


def test_no_earlier_run_is_ever_lost(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    for number in range(4):
        earlier_run(folder, str(number))
        os.utime(folder, (1_700_000_000, 1_700_000_000))  # all changed within one second
        prepare_run_folder(folder)
    kept = [contents(path)["checkpoint.pt"] for path in tmp_path.iterdir() if path != folder]
    assert sorted(kept) == ["0", "1", "2", "3"]


def test_resume_keeps_everything(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    earlier_run(folder, "first")
    old = contents(folder)
    assert prepare_run_folder(folder, resume=True) == folder
    assert contents(folder) == old
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("make", [lambda folder: None, lambda folder: folder.mkdir()], ids=["missing", "empty"])
def test_nothing_to_resume(tmp_path: Path, make) -> None:
    make(tmp_path / "a")
    before = list(tmp_path.rglob("*"))
    with pytest.raises(CheckpointError, match=r"Nothing to resume: .*checkpoint\.pt does not exist") as caught:
        prepare_run_folder(tmp_path / "a", resume=True)
    assert str(tmp_path / "a" / "checkpoint.pt") in str(caught.value)
    assert list(tmp_path.rglob("*")) == before


def test_other_files_are_not_taken_for_a_run(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "thesis.tex").write_text("precious")
    with pytest.raises(
        DatasetError, match=r"holds \['thesis\.tex'\] but no earlier run; expected a new or empty"
    ) as caught:
        prepare_run_folder(tmp_path / "a")
    assert str(tmp_path / "a") in str(caught.value)
    assert contents(tmp_path) == {"a/thesis.tex": "precious"}


def run_in_its_first_stage(folder: Path) -> None:
    (folder / "base").mkdir(parents=True)
    (folder / "base" / "checkpoint.pt").write_text("first")


def test_an_earlier_stage_is_resumed(tmp_path: Path) -> None:
    run_in_its_first_stage(tmp_path / "a")
    assert prepare_run_folder(tmp_path / "a", resume=True, stages=["warm", "base"]) == tmp_path / "a"
    assert contents(tmp_path) == {"a/base/checkpoint.pt": "first"}
    earlier_run(tmp_path / "b", "second")
    assert prepare_run_folder(tmp_path / "b", resume=True, stages=["base"]) == tmp_path / "b"


@pytest.mark.parametrize("stages", [(), ("warm",)])
def test_no_stage_to_resume(tmp_path: Path, stages: tuple[str, ...]) -> None:
    run_in_its_first_stage(tmp_path / "a")
    with pytest.raises(CheckpointError, match="Nothing to resume"):
        prepare_run_folder(tmp_path / "a", resume=True, stages=stages)
    (tmp_path / "b" / "warm").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="Nothing to resume"):
        prepare_run_folder(tmp_path / "b", resume=True, stages=["warm"])


def test_a_run_in_its_first_stage_is_moved_aside(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    run_in_its_first_stage(folder)
    with pytest.raises(DatasetError, match=r"holds \['base'\] but no earlier run"):
        prepare_run_folder(folder)
    prepare_run_folder(folder, stages=["base"])
    assert list(folder.iterdir()) == []
    (aside,) = (path for path in tmp_path.iterdir() if path != folder)
    assert contents(aside) == {"base/checkpoint.pt": "first"}
