# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from monai_segdiff import publish_weights
from monai_segdiff.data.split_file import read_split_file
from monai_segdiff.exceptions import CheckpointError, DatasetError

NAMES = (("model", "pt"), ("model", "json"), ("split", "json"))
SETTINGS = ({"image_scale": 0.5, "kernel": "uniform"}, {"image_scale": 0.5, "kernel": "uniform", "sampler": "exact"})


def entry(folder: Path, name: str, content: bytes) -> dict[str, str]:
    image = folder / f"{name}.png"
    image.write_bytes(content)
    return {"name": name, "image": str(image), "label": str(folder / "labels" / f"{name}.png")}


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """A bundle's ``models`` and a run, with weights and settings."""
    models, run = tmp_path / "models", tmp_path / "run"
    for i, folder in enumerate((models, run)):
        folder.mkdir()
        torch.save({"weight": torch.full((3,), float(i))}, folder / "model.pt")
        (folder / "model.json").write_text(json.dumps(SETTINGS[i]))
    return models, run


@pytest.fixture
def parts(tmp_path: Path) -> dict[str, Any]:
    return {"training": [entry(tmp_path, "b", b"bb")], "validation": [entry(tmp_path, "c", b"cc")]}


def test_the_new_weights_are_served_and_the_former_kept(folders: tuple[Path, Path], parts: dict[str, Any]) -> None:
    models, run = folders
    former = {"training": [{"name": "a", "image": "a.png", "label": "a.png"}], "training_sha256": [digest(b"aa")]}
    (models / "split.json").write_text(json.dumps(former))
    before = {path.name: path.read_bytes() for path in models.iterdir()}
    kept = publish_weights(run / "model.pt", models / "model.pt", parts)
    number = digest(before["model.pt"])[:12]
    assert kept == models / f"model-{number}.pt"
    for name, content in before.items():
        stem, suffix = name.split(".")
        assert (models / f"{stem}-{number}.{suffix}").read_bytes() == content
    for name in ("model.pt", "model.json"):
        assert (models / name).read_bytes() == (run / name).read_bytes()
    split = json.loads((models / "split.json").read_text())
    assert split["training"] == [*former["training"], *parts["training"]]
    assert split["training_sha256"] == [digest(b"aa"), digest(b"bb")]
    assert split["validation"] == parts["validation"]
    assert {path.name for path in models.iterdir()} == {*before, *(f"{n}-{number}.{s}" for n, s in NAMES)}


def test_every_round_keeps_its_own_and_lists_an_image_once(folders: tuple[Path, Path], parts: dict[str, Any]) -> None:
    models, run = folders
    first = publish_weights(run / "model.pt", models / "model.pt", parts)
    torch.save({"weight": torch.full((3,), 7.0)}, run / "model.pt")
    second = publish_weights(run / "model.pt", models / "model.pt", parts)
    values = [torch.load(path)["weight"][0].item() for path in (first, second, models / "model.pt")]
    assert values == [0, 1, 7]
    assert json.loads((models / "split.json").read_text())["training_sha256"] == [digest(b"bb")]


def test_an_image_is_in_one_part_when_rounds_exchange_them(folders: tuple[Path, Path], tmp_path: Path) -> None:
    models, run = folders
    x, y, z = (entry(tmp_path, name, name.encode() * 2) for name in "xyz")
    publish_weights(run / "model.pt", models / "model.pt", {"training": [x], "validation": [y]})
    torch.save({"weight": torch.full((3,), 7.0)}, run / "model.pt")
    publish_weights(run / "model.pt", models / "model.pt", {"training": [y], "validation": [x, z]})
    assert read_split_file(models / "split.json") == {"training": [x, y], "validation": [z]}


@pytest.mark.parametrize("hashes", [True, False])
def test_without_an_unseen_validation_image_nothing_is_published(
    folders: tuple[Path, Path], tmp_path: Path, hashes: bool
) -> None:
    models, run = folders
    x, y = (entry(tmp_path, name, name.encode()) for name in "xy")
    recorded = {"training": [x], "validation": [y]} | ({"training_sha256": [digest(b"x")]} if hashes else {})
    (models / "split.json").write_text(json.dumps(recorded))
    before = {path.name: path.read_bytes() for path in models.iterdir()}
    with pytest.raises(DatasetError, match=r"split\.json: all 1 validation images .* expected at least one"):
        publish_weights(run / "model.pt", models / "model.pt", {"training": [y], "validation": [x]})
    assert {path.name: path.read_bytes() for path in models.iterdir()} == before


def test_a_split_without_hashes_stays_one_by_names(folders: tuple[Path, Path], parts: dict[str, Any]) -> None:
    """With the hashes of some images alone, the others would be taken for unseen."""
    models, run = folders
    (models / "split.json").write_text(json.dumps({"training": [{"name": "a", "image": "a.png", "label": "a.png"}]}))
    for _ in range(2):
        publish_weights(run / "model.pt", models / "model.pt", parts)
    split = json.loads((models / "split.json").read_text())
    assert [item["name"] for item in split["training"]] == ["a", "b"]
    assert "training_sha256" not in split


def test_whatever_fails_the_former_weights_are_served(
    folders: tuple[Path, Path], parts: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    models, run = folders
    before = (models / "model.pt").read_bytes()
    replace, calls = os.replace, []

    def fail_later(source: Path, target: Path) -> None:
        if Path(target).name == "model.pt":
            raise OSError("disk full")
        calls.append(Path(target).name)
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail_later)
    with pytest.raises(OSError, match="disk full"):
        publish_weights(run / "model.pt", models / "model.pt", parts)
    assert (models / "model.pt").read_bytes() == before
    assert "split.json" in calls, "an evaluation must know of the images before the weights are there"


@pytest.mark.parametrize(
    ("with_split", "interrupted_at"), [*((True, i) for i in range(1, 7)), *((False, i) for i in range(1, 6))]
)
def test_what_was_kept_survives_a_second_attempt(
    folders: tuple[Path, Path],
    parts: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    with_split: bool,
    interrupted_at: int,
) -> None:
    """Whichever file the first one could not put into its place."""
    models, run = folders
    known = [digest(b"aa")] if with_split else []
    if with_split:
        former = {"training": [{"name": "a", "image": "a.png", "label": "a.png"}], "training_sha256": known}
        (models / "split.json").write_text(json.dumps(former))
    before = {path.name: path.read_bytes() for path in models.iterdir()}
    number = digest(before["model.pt"])[:12]
    replace, calls = os.replace, []

    def fail_later(source: Path, target: Path) -> None:
        calls.append(target)
        if len(calls) == interrupted_at:
            raise OSError("killed")
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail_later)
        with pytest.raises((OSError, DatasetError), match="killed"):
            publish_weights(run / "model.pt", models / "model.pt", parts)
    publish_weights(run / "model.pt", models / "model.pt", parts)
    kept = {path.name: path.read_bytes() for path in models.iterdir() if number in path.name}
    assert kept == {name.replace(".", f"-{number}."): content for name, content in before.items()}
    assert json.loads((models / "split.json").read_text())["training_sha256"] == [*known, digest(b"bb")]


def test_other_settings_are_refused(folders: tuple[Path, Path], parts: dict[str, Any]) -> None:
    """Settings and weights are two files: replaced one after the other, they would not fit in between."""
    models, run = folders
    (run / "model.json").write_text(json.dumps(SETTINGS[1] | {"image_scale": 1.0}))
    before = {path.name: path.read_bytes() for path in models.iterdir()}
    with pytest.raises(CheckpointError, match=r"run/model\.pt .* image_scale=1\.0, expected 0\.5 as .*ls/model\.pt"):
        publish_weights(run / "model.pt", models / "model.pt", parts)
    assert {path.name: path.read_bytes() for path in models.iterdir()} == before


@pytest.mark.parametrize("absent", [0, 1])
def test_settings_on_one_side_only(folders: tuple[Path, Path], parts: dict[str, Any], absent: int) -> None:
    (folders[absent] / "model.json").unlink()
    publish_weights(folders[1] / "model.pt", folders[0] / "model.pt", parts)
    assert json.loads((folders[0] / "model.json").read_text()) == SETTINGS[1 - absent]


@pytest.mark.parametrize("absent", [0, 1])
def test_absent_weights(folders: tuple[Path, Path], parts: dict[str, Any], absent: int) -> None:
    path = folders[absent] / "model.pt"
    path.unlink()
    with pytest.raises(CheckpointError, match=f"{path} does not exist"):
        publish_weights(folders[1] / "model.pt", folders[0] / "model.pt", parts)
    assert not (folders[0] / "split.json").exists()
