# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from benchmarks import uncertainty as module
from benchmarks.bundle import Bundle
from benchmarks.uncertainty import MEASURES, error_finding, main, uncertainty
from monai_segdiff import SegDiffInferer

KEYS = ["weights", "prediction_type", "steps", "generations", "uncertainty"]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Steps and generations of each image that is sampled."""
    sampled: list[tuple[int, int]] = []
    statistics = SegDiffInferer.statistics

    def spy(self: SegDiffInferer, *args: Any) -> Any:
        sampled.append((self.scheduler.num_inference_steps or 0, self.num_generations))
        return statistics(self, *args)

    monkeypatch.setattr(SegDiffInferer, "statistics", spy)
    return sampled


def area_under_risk(values: np.ndarray, wrong: np.ndarray) -> float:
    """Mean risk of 0.01, 0.02, ... of the pixels, those of equal uncertainty with their mean error."""
    pixels = values.ravel()
    mean_error = {value: wrong.ravel()[pixels == value].mean() for value in np.unique(pixels)}
    errors = np.concatenate([[0], np.cumsum([mean_error[value] for value in np.sort(pixels)])])
    kept = np.arange(1, 101) / 100 * pixels.size
    return float(np.mean(np.interp(kept, np.arange(pixels.size + 1), errors) / kept))


def test_rows_are_the_means_of_images(
    bundle: Bundle, dataset: Path, weights: Path, tmp_path: Path, calls: list[tuple[int, int]]
) -> None:
    rows = uncertainty(bundle, dataset, {"ours": str(weights)}, tmp_path, steps=2, num_generations=2, num_images=2)
    assert calls == [(2, 2)] * 2
    assert [[row[key] for key in KEYS] for row in rows] == [["ours", "sample", 2, 2, name] for name in MEASURES]
    inferer, network = bundle.inferer(num_inference_steps=2, num_generations=2), bundle.network(weights)
    auroc, area, rates = np.zeros((2, 3)), np.zeros((2, 3)), np.zeros(2)
    for i, item in enumerate(bundle.items(dataset, num_images=2)):
        found = inferer.statistics(item.image[None], network)
        wrong = ((found.mean > 0.5)[0] != item.label)[0].numpy()
        rates[i] = wrong.mean()
        for j, values in enumerate((found.standard_deviation, found.entropy, found.mutual_information)):
            auroc[i, j] = roc_auc_score(wrong.ravel(), values.ravel().numpy())
            area[i, j] = area_under_risk(values[0, 0].numpy(), wrong)
    assert [row["auroc"] for row in rows] == pytest.approx(list(auroc.mean(0)), abs=1e-6)
    assert [row["area"] for row in rows] == pytest.approx(list(area.mean(0)), abs=1e-9)
    coverage = np.arange(1, 101) / 100
    oracle = np.maximum(0, 1 - (1 - rates[:, None]) / coverage).mean()
    assert [row["excess"] for row in rows] == pytest.approx(list(area.mean(0) - oracle), abs=1e-9)
    for row in rows:
        assert row["images"] == row["auroc_images"] == 2
        assert row["error_rate"] == pytest.approx(rates.mean())
        for score in ("auroc", "area", "excess"):
            assert row[f"{score}_low"] < row[score] < row[f"{score}_high"]
    assert len({row["auroc"] for row in rows}) == 3


def test_the_entropy_of_a_perfect_judge() -> None:
    truth = np.zeros((4, 5), bool)
    statistics = np.zeros((4, 4, 5))
    statistics[0, :2] = 0.5001  # wrong, and less certain than the others
    statistics[1:, :2] = np.array([0.1, 0.2, 0.3])[:, None, None]
    statistics[2] *= -1  # the wrong ones are the surest
    statistics[3] = 0.1  # says nothing
    found = error_finding(statistics, truth)
    assert found["error_rate"] == 0.5
    assert [found[name]["auroc"] for name in MEASURES] == [1, 0, 0.5]
    assert found["standard_deviation"]["excess"] == pytest.approx(0)
    assert found["mutual_information"]["area"] == pytest.approx(0.5)
    assert found["mutual_information"]["risk"] == pytest.approx([0.5] * 100)
    assert found["entropy"]["risk"][:50] == pytest.approx([1] * 50)
    # Nothing is above this threshold.
    assert error_finding(statistics, truth, threshold=0.5001)["error_rate"] == 0


@pytest.mark.parametrize("answer", [True, False])
def test_images_all_right_or_all_wrong(answer: bool) -> None:
    statistics = np.random.default_rng(0).random((4, 6, 7))
    statistics[0] = 1
    found = error_finding(statistics, np.full((6, 7), answer))
    assert found["error_rate"] == 1 - answer
    for name in MEASURES:
        assert found[name]["auroc"] is None
        assert (found[name]["area"], found[name]["excess"]) == (1 - answer, 0)


def test_undefined_areas_are_left_out(
    bundle: Bundle, dataset: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    defined = iter([0.25, None, None])
    found = module.error_finding

    def some_undefined(*args: Any) -> dict[str, Any]:
        auroc = next(defined)
        return {name: {**value, "auroc": auroc} if name in MEASURES else value for name, value in found(*args).items()}

    monkeypatch.setattr(module, "error_finding", some_undefined)
    asked = (bundle, dataset, {"ours": str(weights)}, tmp_path)
    rows = uncertainty(*asked, steps=1, num_generations=2, num_images=2)
    assert [(row["auroc"], row["auroc_images"], row["images"]) for row in rows] == [(0.25, 1, 2)] * 3
    (row, *_) = uncertainty(*asked, steps=1, num_generations=3, num_images=1)
    assert (row["auroc"], row["auroc_low"], row["auroc_images"]) == (None, None, 0)


def test_an_interruption_keeps_what_is_done(
    bundle: Bundle, dataset: Path, weights: Path, tmp_path: Path, calls: list[tuple[int, int]]
) -> None:
    def run(num_images: int | None = None, **settings: int) -> list[dict[str, Any]]:
        calls.clear()
        return uncertainty(bundle, dataset, {"ours": str(weights)}, tmp_path, num_images=num_images, **settings)

    run(1, steps=1, num_generations=2)
    rows = run(2, steps=1, num_generations=2)
    assert calls == [(1, 2)]
    assert run(2, steps=1, num_generations=2) == rows
    assert calls == []
    run(1, steps=1, num_generations=3)
    assert calls == [(1, 3)]
    stored = json.loads((tmp_path / "uncertainty.json").read_text())["rows"]
    assert [row["generations"] for row in stored] == [2, 2, 3]
    assert len(stored[0]["entropy"]["risk"]) == 100


def test_curves_of_the_picture(
    bundle: Bundle, dataset: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[dict[str, Any], dict[str, Any]]] = []
    monkeypatch.setattr(module, "draw_risk_coverage", lambda path, curves, **kwargs: drawn.append((curves, kwargs)))
    rows = uncertainty(bundle, dataset, {"a": str(weights)}, tmp_path, 1, 2, num_images=2)
    uncertainty(bundle, dataset, {"a": str(weights), "b": str(weights)}, tmp_path, 1, 2, num_images=2)
    (curves, reference), (several, nothing) = drawn
    assert list(curves) == ["standard deviation", "entropy", "mutual information"]
    for (coverage, risk), row in zip(curves.values(), rows, strict=True):
        assert list(coverage) == pytest.approx(np.arange(1, 101) / 100)
        assert (risk[-1], risk.mean()) == pytest.approx((row["error_rate"], row["area"]))
    assert reference["error_rate"] == pytest.approx(rows[0]["error_rate"])
    assert reference["oracle"][1].mean() == pytest.approx(rows[0]["area"] - rows[0]["excess"])
    assert list(several) == [f"{name}, {measure}" for name in "ab" for measure in curves]
    assert nothing == {}


def test_command(
    dataset: Path, weights: Path, tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--dataset_dir", str(dataset), "--weights", f"ours={weights}", "--steps", "1", "--generations", "2"]
    main([*given, "--num_images", "2", "--output_dir", str(tmp_path), *words])
    printed = capsys.readouterr().out.splitlines()
    with (tmp_path / "uncertainty.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["uncertainty"] for row in rows] == list(MEASURES)
    for line, row in zip(printed[2:5], rows, strict=True):
        numbers = {key: f"{float(row[key]):.4f}" for key in row if key not in KEYS}
        expected = ["ours", "sample", row["uncertainty"], numbers["error_rate"]]
        for score in ("auroc", "area", "excess"):
            expected += [numbers[score], f"({numbers[f'{score}_low']}..{numbers[f'{score}_high']})"]
        assert line.split() == expected
    assert "Images: 2. 1 step(s), 2 generations." in printed[-1]
    with Image.open(tmp_path / "risk_coverage.png") as picture:
        assert picture.size[0] > 500


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        ({"--generations": "1"}, 2, "one generation has no disagreement, expected at least 2"),
        ({"--steps": "0"}, 2, "'0' is not a whole number of at least 1"),
        ({"--steps": "101"}, 2, "101 steps are asked for, expected at most the 100 of"),
        ({"--weights": "a=none.pt"}, 1, "CheckpointError: Checkpoint none.pt does not exist."),
        ({"--dataset_dir": "nowhere"}, 1, "this dataset folder does not exist"),
    ],
)
def test_bad_command_lines(
    weights: Path,
    dataset: Path,
    tmp_path: Path,
    changes: dict[str, str],
    code: int,
    message: str,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
) -> None:
    output = str(tmp_path / "out")
    given = {"--weights": f"a={weights}", "--dataset_dir": str(dataset), "--output_dir": output, **changes}
    with pytest.raises(SystemExit) as stopped:
        main([word for pair in given.items() for word in pair] + words)
    assert stopped.value.code == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_help_explains_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    printed = capsys.readouterr().out
    assert "python -m benchmarks.uncertainty --dataset_dir VALIDATION" in printed
    assert "AUROC   the probability that a wrong pixel" in printed
