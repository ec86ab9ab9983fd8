# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from benchmarks.bundle import Bundle
from benchmarks.few_steps import Setting, few_steps, main
from benchmarks.image_scores import overlap_counts
from monai_segdiff import SegDiffInferer, segmentation_scores
from monai_segdiff.exceptions import CheckpointError, DatasetError

SETTINGS = [Setting(1, 1), Setting(2, 1), Setting(2, 3)]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Steps and generations of each image that is sampled."""
    sampled: list[tuple[int, int]] = []
    generations = SegDiffInferer.generations

    def spy(self: SegDiffInferer, *args: Any) -> torch.Tensor:
        sampled.append((self.scheduler.num_inference_steps or 0, self.num_generations))
        return generations(self, *args)

    monkeypatch.setattr(SegDiffInferer, "generations", spy)
    return sampled


def test_rows_are_those_of_separate_runs(
    bundle: Bundle, dataset: Path, weights: Path, tmp_path: Path, calls: list[tuple[int, int]]
) -> None:
    bundle = bundle.with_overrides({"threshold": 0.6})
    rows = few_steps(bundle, dataset, {"ours": str(weights)}, SETTINGS, tmp_path)
    # Fewer generations are the first ones of more.
    assert calls == [(1, 1), (2, 3)] * 3
    network = bundle.network(weights)
    for row, (steps, generations) in zip(rows, SETTINGS, strict=True):
        assert (row["weights"], row["steps"], row["generations"]) == ("ours", steps, generations)
        inferer = bundle.inferer(num_inference_steps=steps, num_generations=generations)
        dice = []
        for item in bundle.items(dataset):
            mask = (inferer(item.image[None], network)[0, 0] > 0.6).numpy()
            dice.append(segmentation_scores(*overlap_counts(mask, item.label[0].numpy()))["dice"])
        assert [image["dice"] for image in row["images"]] == pytest.approx(dice, abs=1e-6)
        assert row["dice"]["value"] == pytest.approx(sum(dice) / 3, abs=1e-6)
        assert (row["spread"] is None) == (generations == 1)
    assert rows[0]["images"][0]["dice"] != rows[1]["images"][0]["dice"]


def test_results_are_not_computed_again(
    bundle: Bundle, dataset: Path, weights: Path, tmp_path: Path, calls: list[tuple[int, int]]
) -> None:
    few_steps(bundle, dataset, {"ours": str(weights)}, SETTINGS[:2], tmp_path)
    first = json.loads((tmp_path / "few_steps.json").read_text())
    calls.clear()
    rows = few_steps(bundle, dataset, {"renamed": str(weights)}, [Setting(1, 1), Setting(3, 1)], tmp_path)
    assert calls == [(3, 1)] * 3
    assert [(row["weights"], row["steps"]) for row in rows] == [("renamed", 1), ("renamed", 3)]
    second = json.loads((tmp_path / "few_steps.json").read_text())
    assert second["rows"][:6] == first["rows"]
    assert len(second["rows"]) == 9
    # Other weights, even under the old name, are other results.
    state = torch.load(weights)
    torch.save({name: value + 0.01 for name, value in state.items()}, tmp_path / "model.pt")
    calls.clear()
    few_steps(bundle, dataset, {"ours": str(tmp_path / "model.pt")}, [Setting(1, 1)], tmp_path)
    assert calls == [(1, 1)] * 3


def test_weights_that_predict_noise(bundle: Bundle, dataset: Path, weights: Path, tmp_path: Path) -> None:
    shutil.copy(weights, tmp_path / "model.pt")
    (tmp_path / "model.json").write_text(json.dumps({"prediction_type": "epsilon"}))
    both = {"mask": str(weights), "noise": str(tmp_path / "model.pt")}
    rows = few_steps(bundle, dataset, both, SETTINGS[:1], tmp_path / "out", num_images=1)
    assert [row["prediction_type"] for row in rows] == ["sample", "epsilon"]
    assert rows[0]["dice"] != rows[1]["dice"]
    expected = bundle.with_overrides({"prediction_type": "epsilon"}).inferer()
    item = bundle.items(dataset)[0]
    mask = (expected(item.image[None], bundle.network(weights))[0, 0] > 0.5).numpy()
    scores = segmentation_scores(*overlap_counts(mask, item.label[0].numpy()))
    assert rows[1]["dice"]["value"] == pytest.approx(scores["dice"], abs=1e-6)


def test_another_protocol_is_refused(bundle: Bundle, dataset: Path, weights: Path, tmp_path: Path) -> None:
    few_steps(bundle, dataset, {"ours": str(weights)}, SETTINGS[:1], tmp_path)
    other = bundle.with_overrides({"window_overlap": 0.5})
    with pytest.raises(DatasetError, match=r"\['window_overlap'\] differ"):
        few_steps(other, dataset, {"ours": str(weights)}, SETTINGS[:1], tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"rows": []}', '{"protocol": {}, "rows": [{"steps": 1}]}'])
def test_unreadable_results_are_refused(
    bundle: Bundle, dataset: Path, weights: Path, tmp_path: Path, content: str
) -> None:
    (tmp_path / "few_steps.json").write_text(content)
    with pytest.raises(DatasetError, match=r"few_steps\.json: these results"):
        few_steps(bundle, dataset, {"ours": str(weights)}, SETTINGS[:1], tmp_path)
    assert (tmp_path / "few_steps.json").read_text() == content


def test_all_weights_are_checked_before_anything_is_sampled(
    bundle: Bundle, dataset: Path, weights: Path, tmp_path: Path, calls: list[tuple[int, int]]
) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pt")
    for path, message in (("other.pt", "another network"), ("none.pt", "does not exist")):
        with pytest.raises(CheckpointError, match=message):
            few_steps(bundle, dataset, {"a": str(weights), "b": str(tmp_path / path)}, SETTINGS, tmp_path)
    assert not calls


def test_command(
    dataset: Path, weights: Path, tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--dataset_dir", str(dataset), "--weights", f"ours={weights}", "--settings", "1x1", "2x2"]
    main([*given, "--output_dir", str(tmp_path), *words])
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split()[:2] == ["weights", "predicts"]
    assert printed[2].split()[:5] == ["ours", "sample", "1", "x", "1"]
    assert "Images: 3." in printed[-1]
    with (tmp_path / "few_steps.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["steps"], row["generations"]) for row in rows] == [("1", "1"), ("2", "2")]
    assert rows[0]["spread"] == ""
    assert float(rows[1]["dice_change"]) == pytest.approx(float(rows[1]["dice"]) - float(rows[0]["dice"]))
    with Image.open(tmp_path / "few_steps.png") as picture:
        assert picture.size[0] > 500


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        ({"--settings": "3"}, 2, "'3' is not of the form STEPSxGENERATIONS"),
        ({"--settings": "0x1"}, 2, "'0x1' is not of the form"),
        ({"--settings": "1x-1"}, 2, "'1x-1' is not of the form"),
        ({"--settings": "1x1x1"}, 2, "'1x1x1' is not of the form"),
        ({"--settings": "101x1"}, 2, "101 steps are asked for, expected at most the 100 of"),
        ({"--weights": "model.pt"}, 2, "'model.pt' is not of the form NAME=PATH"),
        ({"--weights": "a=none.pt"}, 1, "CheckpointError: Checkpoint none.pt does not exist."),
        ({"--dataset_dir": "nowhere"}, 1, "this dataset folder does not exist"),
        ({"--override": "window"}, 2, "'window' is not of the form NAME=VALUE"),
        ({"--override": "window_sise=3"}, 1, "Unknown override window_sise"),
    ],
)
def test_bad_command_lines(
    weights: Path,
    dataset: Path,
    changes: dict,
    code: int,
    message: str,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
) -> None:
    given = {"--weights": f"a={weights}", "--dataset_dir": str(dataset), **changes}
    tiny = [] if "--override" in changes else words
    with pytest.raises(SystemExit) as stopped:
        main([word for pair in given.items() for word in pair] + tiny)
    assert stopped.value.code == code
    assert message in capsys.readouterr().err


def test_names_are_unique(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--dataset_dir", "x", "--weights", f"a={weights}", f"a={weights}"])
    assert "the same name is given twice" in capsys.readouterr().err


def test_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    printed = capsys.readouterr().out
    assert "python -m benchmarks.few_steps --dataset_dir VALIDATION" in printed
    assert "python -m benchmarks.training_sweep --vary num_train_timesteps" in printed
