# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import hashlib
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from monai_segdiff import publish_weights
from monai_segdiff.exceptions import DatasetError

SOURCE = Path(__file__).parents[2] / "examples" / "monailabel" / "bundle" / "lib" / "hold_back.py"
SPEC = importlib.util.spec_from_file_location("monailabel_hold_back", SOURCE)
assert SPEC is not None
assert SPEC.loader is not None
MODULE = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(MODULE)
hold_back = MODULE.hold_back


def written(folder: Path, contents: list[str]) -> list[dict[str, str]]:
    """An entry for each content, named in the order given."""
    entries = []
    for i, content in enumerate(contents):
        image = folder / f"im{i:02d}.png"
        image.write_text(content)
        entries.append({"name": image.stem, "image": str(image), "label": str(folder / "labels" / image.name)})
    return entries


def digest(entry: dict[str, str]) -> str:
    return hashlib.sha256(Path(entry["image"]).read_bytes()).hexdigest()


def names(entries: list[dict[str, str]]) -> set[str]:
    return {entry["name"] for entry in entries}


@pytest.mark.parametrize(
    ("count", "share", "held"), [(2, 0.2, 1), (2, 0.9, 1), (3, 0.2, 1), (4, 0.5, 2), (10, 0.2, 2), (10, 0.99, 9)]
)
def test_a_share_by_content(tmp_path: Path, count: int, share: float, held: int) -> None:
    entries = written(tmp_path, [f"picture {i}" for i in range(count)])
    parts = hold_back(entries, share, tmp_path / "split.json")
    assert names(parts["validation"]) == names(sorted(entries, key=digest)[:held])
    assert [entry for entry in entries if entry not in parts["validation"]] == parts["training"]


def test_no_image_judges_that_the_served_weights_were_trained_on(tmp_path: Path) -> None:
    """Rounds with ever more images, all of them published: the record is that of ``publish_weights`` itself."""
    entries = written(tmp_path, [f"picture {i}" for i in range(24)])
    models, run, trained = tmp_path / "models", tmp_path / "run", set()
    models.mkdir()
    run.mkdir()
    torch.save({"weight": torch.zeros(1)}, models / "model.pt")
    pushed_out = 0
    for turn, count in enumerate((2, 3, 5, 8, 12, 13, 24), start=1):
        parts = hold_back(entries[:count], 0.25, models / "split.json")
        judges = names(parts["validation"])
        assert judges | names(parts["training"]) == names(entries[:count])
        assert not judges & trained
        assert len(judges) == max(1, round(0.25 * count))
        pushed_out += len(names(sorted(entries[:count], key=digest)[: len(judges)]) & trained)
        trained |= names(parts["training"])
        torch.save({"weight": torch.full((1,), float(turn))}, run / "model.pt")
        publish_weights(run / "model.pt", models / "model.pt", parts)
        assert names(json.loads((models / "split.json").read_text())["training"]) == trained
    assert pushed_out, "the images must be such that the record matters"


def test_fewer_judge_where_too_few_are_new(tmp_path: Path) -> None:
    entries = written(tmp_path, [f"picture {i}" for i in range(6)])
    split = tmp_path / "split.json"
    split.write_text(json.dumps({"training": entries[:5], "training_sha256": [digest(e) for e in entries[:5]]}))
    parts = hold_back(entries, 0.5, split)
    assert parts == {"training": entries[:5], "validation": entries[5:]}


def test_copies_are_on_the_same_side(tmp_path: Path) -> None:
    entries = written(tmp_path, ["one", "two", "one", "two", "one"])
    parts = hold_back(entries, 0.5, tmp_path / "split.json")
    assert sorted(len({digest(entry) for entry in part}) for part in parts.values()) == [1, 1]


def test_a_copy_of_a_training_image_does_not_judge(tmp_path: Path) -> None:
    entries = written(tmp_path, ["one", "two"])
    split = tmp_path / "split.json"
    for content, other in (("one", "two"), ("two", "one")):
        recorded = {"name": "x", "image": "x.png", "label": "x.png"}
        digests = [hashlib.sha256(content.encode()).hexdigest()]
        split.write_text(json.dumps({"training": [recorded], "training_sha256": digests}))
        (judge,) = hold_back(entries, 0.5, split)["validation"]
        assert Path(judge["image"]).read_text() == other


def test_a_split_without_hashes_counts_by_names(tmp_path: Path) -> None:
    entries = written(tmp_path, ["one", "two"])
    split = tmp_path / "split.json"
    for i in (0, 1):
        split.write_text(json.dumps({"training": [entries[i]]}))
        assert hold_back(entries, 0.5, split) == {"training": [entries[i]], "validation": [entries[1 - i]]}


@pytest.mark.parametrize(
    ("contents", "share", "error", "message"),
    [
        ([], 0.2, DatasetError, "0 different images have a final label; expected at least 2"),
        (["one"], 0.2, DatasetError, "1 different images have a final label; expected at least 2"),
        (["one", "one"], 0.2, DatasetError, "1 different images have a final label; expected at least 2"),
        (["used", "used as well"], 0.2, DatasetError, r"All 2 images .* training part of .*split\.json; expected"),
        (["one", "two"], 0, ValueError, "val_split is 0, expected a number between 0 and 1"),
        (["one", "two"], 1, ValueError, "val_split is 1, expected a number between 0 and 1"),
        (["one", "two"], float("nan"), ValueError, "val_split is nan, expected a number between 0 and 1"),
    ],
)
def test_what_cannot_be_divided(tmp_path: Path, contents: list[str], share: float, error: Any, message: str) -> None:
    digests = [hashlib.sha256(content.encode()).hexdigest() for content in ("used", "used as well")]
    (tmp_path / "split.json").write_text(json.dumps({"training": [], "training_sha256": digests}))
    with pytest.raises(error, match=message):
        hold_back(written(tmp_path, contents), share, tmp_path / "split.json")
