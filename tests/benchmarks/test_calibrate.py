# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.special import expit

from benchmarks.bundle import Bundle
from benchmarks.calibrate import SCORES, calibrate, compare_temperatures, main
from monai_segdiff import (
    SegDiffInferer,
    TemperatureScaling,
    calibration_counts,
    calibration_scores,
    fit_temperature,
    negative_log_likelihood,
)
from monai_segdiff.exceptions import CheckpointError, DatasetError


def images(number: int, temperature: float) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Images of different sizes whose probabilities are too sure by a temperature."""
    generator = np.random.default_rng(0)
    logits = [generator.normal(0, 1.5, (40, 30 + 10 * i)) for i in range(number)]
    truths = [generator.random(z.shape) < expit(z) for z in logits]
    return [expit(temperature * z).astype(np.float32) for z in logits], truths


def scores_by_hand(probabilities: list[np.ndarray], truths: list[np.ndarray], used: list[float]) -> dict[str, float]:
    scaled = [TemperatureScaling(t)(torch.from_numpy(p)).numpy() for p, t in zip(probabilities, used, strict=True)]
    p, y = (np.concatenate([one.ravel() for one in part]) for part in (scaled, truths))
    clipped = p.astype(np.float64).clip(1e-9, 1 - 1e-9)
    likelihood = -np.where(y, np.log(clipped), np.log(1 - clipped)).mean()
    brier = np.square(p - y.astype(np.float64)).mean()
    return {**calibration_scores(calibration_counts(p, y)), "brier_score": brier, "negative_log_likelihood": likelihood}


def test_three_ways_to_choose_the_temperature() -> None:
    probabilities, truths = images(3, 2.0)
    found = compare_temperatures(probabilities, truths)
    assert found["temperature"] == pytest.approx(2, rel=0.1)
    assert found["temperature"] == fit_temperature(probabilities, truths)
    left_out = [
        fit_temperature([probabilities[i] for i in others], [truths[i] for i in others])
        for others in ([1, 2], [0, 2], [0, 1])
    ]
    expected = {"none": [1, 1, 1], "all_images": [found["temperature"]] * 3, "leave_one_out": left_out}
    assert len(set(left_out)) == 3
    for name, used in expected.items():
        scored = found[name]
        assert scored["temperatures"] == used
        by_hand = scores_by_hand(probabilities, truths, used)
        assert {score: scored[score] for score in by_hand} == pytest.approx(by_hand, rel=1e-4)
    # The fit can only flatter itself.
    likelihood = [found[name]["negative_log_likelihood"] for name in ("all_images", "leave_one_out", "none")]
    assert likelihood == sorted(likelihood)
    assert found["all_images"]["expected_calibration_error"] < 0.5 * found["none"]["expected_calibration_error"]


@pytest.fixture
def sampled(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Steps and generations of each image that is sampled."""
    calls: list[tuple[int, int]] = []
    call = SegDiffInferer.__call__

    def spy(self: SegDiffInferer, *args: Any) -> torch.Tensor:
        calls.append((self.scheduler.num_inference_steps or 0, self.num_generations))
        return call(self, *args)

    monkeypatch.setattr(SegDiffInferer, "__call__", spy)
    return calls


def test_files_and_figures_are_those_of_the_inferer(
    bundle: Bundle, dataset: Path, weights: Path, tmp_path: Path, sampled: list[tuple[int, int]]
) -> None:
    report = calibrate(bundle, dataset, weights, tmp_path, steps=2, generations=2)
    assert sampled == [(2, 2)] * 3
    network, inferer = bundle.network(weights), bundle.inferer(num_inference_steps=2, num_generations=2)
    items = bundle.items(dataset)
    probabilities = [inferer(item.image[None], network)[0, 0].numpy() for item in items]
    expected = compare_temperatures(probabilities, [item.label[0].numpy() for item in items])
    assert report["temperature"] == expected["temperature"]
    written = json.loads((tmp_path / "calibration.json").read_text())
    assert report.items() <= written.items()
    assert list(written["temperature_without_image"]) == [item.name for item in items]
    assert list(written["temperature_without_image"].values()) == expected["leave_one_out"]["temperatures"]
    with (tmp_path / "calibration.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["temperature"] for row in rows] == ["none", "all_images", "leave_one_out"]
    for row, printed in zip(report["rows"], rows, strict=True):
        scored = expected[row["temperature"]]
        assert row["temperature_lowest"] == min(scored["temperatures"])
        assert row["temperature_highest"] == max(scored["temperatures"])
        for score in ("expected_calibration_error", "paper_calibration_score", "brier_score", "empty_bins"):
            assert row[score] == scored[score] == float(printed[score])
        assert written["counts"][row["temperature"]] == scored["counts"].tolist()
        assert row["negative_log_likelihood"] == scored["negative_log_likelihood"]
    none = np.mean([negative_log_likelihood(p, i.label[0].numpy()) for p, i in zip(probabilities, items, strict=True)])
    assert report["rows"][0]["negative_log_likelihood"] == pytest.approx(none)
    kept = json.loads((tmp_path / "temperature.json").read_text())
    assert kept == {"temperature": report["temperature"], "protocol": report["protocol"]}
    assert kept["protocol"]["images"] == [item.name for item in items]
    assert (kept["protocol"]["num_inference_steps"], kept["protocol"]["num_generations"]) == (2, 2)
    assert kept["protocol"]["pixels"] == 3 * 96 * 96
    with Image.open(tmp_path / "reliability.png") as picture:
        assert picture.size[0] > 500


def test_defaults_are_those_of_the_bundle_and_of_the_weights(
    bundle: Bundle, dataset: Path, weights: Path, tmp_path: Path, sampled: list[tuple[int, int]]
) -> None:
    shutil.copy(weights, tmp_path / "model.pt")
    (tmp_path / "model.json").write_text(json.dumps({"prediction_type": "epsilon"}))
    report = calibrate(bundle, dataset, tmp_path / "model.pt", tmp_path, num_images=2)
    expected = (bundle.value("num_inference_steps"), bundle.value("num_generations"))
    assert sampled == [expected] * 2
    assert (report["protocol"]["num_inference_steps"], report["protocol"]["num_generations"]) == expected
    assert report["protocol"]["prediction_type"] == "epsilon"


@pytest.mark.parametrize(
    ("name", "num_images", "error", "message"),
    [
        ("model.pt", 1, DatasetError, "found one image, expected two or more"),
        ("none.pt", None, CheckpointError, "none.pt"),
    ],
)
def test_what_cannot_be_used_leaves_nothing(
    bundle: Bundle,
    dataset: Path,
    weights: Path,
    tmp_path: Path,
    sampled: list[tuple[int, int]],
    name: str,
    num_images: int | None,
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        calibrate(bundle, dataset, weights.with_name(name), tmp_path, num_images=num_images)
    assert not sampled
    assert not list(tmp_path.iterdir())


def test_command(
    dataset: Path, weights: Path, tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--dataset_dir", str(dataset), "--weights", str(weights), "--steps", "2", "--num_images", "2"]
    main([*given, "--output_dir", str(tmp_path), *words])
    printed = capsys.readouterr().out.splitlines()
    temperature = json.loads((tmp_path / "temperature.json").read_text())["temperature"]
    assert printed[0].split() == ["temperature", "T", "ECE", "paper's", "score", "Brier", "NLL", "(nats)"]
    assert printed[2].split()[:2] == ["without", "1.000"]
    assert printed[3].startswith("fitted on all images")
    assert f"{temperature:.3f}" in printed[3]
    assert printed[4].startswith("leave one image out")
    assert printed[5].startswith("Images: 2.")
    assert printed[-1].endswith(f"--temperature {temperature:.4g} --num_inference_steps 2 --num_generations 1")


@pytest.mark.parametrize(
    ("temperature", "brier", "warnings"),
    [
        (19.9, 0.1, []),
        (19.9, 0.11, ["makes worse: Brier."]),
        (20.0, 0.1, ["do not rely on it."]),
        (0.05, 0.11, ["makes worse: Brier.", "do not rely on it."]),
    ],
)
def test_doubts_are_printed(
    temperature: float,
    brier: float,
    warnings: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    names = ("temperature_lowest", "temperature_highest", *SCORES)
    rows = [{"temperature": name, **dict.fromkeys(names, 0.1)} for name in ("none", "all_images", "leave_one_out")]
    rows[2]["brier_score"] = brier
    protocol = {"images": ["a", "b"], "num_inference_steps": 1, "num_generations": 1}
    report = {"temperature": temperature, "protocol": protocol, "rows": rows}
    monkeypatch.setattr("benchmarks.calibrate.calibrate", lambda *_: report)
    main(["--dataset_dir", "x", "--weights", "y"])
    printed = capsys.readouterr().out.splitlines()[6:-1]
    assert len(printed) == len(warnings)
    assert all(line.endswith(warning) for line, warning in zip(printed, warnings, strict=True))


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        ({"--weights": "none.pt"}, 1, "CheckpointError: "),
        ({"--dataset_dir": "nowhere"}, 1, "this dataset folder does not exist"),
        ({"--num_images": "1"}, 1, "found one image, expected two or more"),
        ({"--num_images": "0"}, 2, "'0' is not a whole number of at least 1"),
        ({"--generations": "x"}, 2, "'x' is not a whole number of at least 1"),
        ({"--steps": "101"}, 2, "101 steps are asked for"),
    ],
)
def test_bad_command_lines(
    dataset: Path,
    weights: Path,
    tmp_path: Path,
    words: list[str],
    changes: dict,
    code: int,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = {"--weights": str(weights), "--dataset_dir": str(dataset), "--output_dir": str(tmp_path), **changes}
    with pytest.raises(SystemExit) as stopped:
        main([word for pair in given.items() for word in pair] + words)
    assert stopped.value.code == code
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
