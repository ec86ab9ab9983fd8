# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.bundle import Bundle
from benchmarks.few_steps import Setting, few_steps
from benchmarks.image_scores import overlap_counts
from benchmarks.trajectory import main, settled_step, trajectory
from benchmarks.trajectory_plot import draw_trajectory
from monai_segdiff import SegDiffInferer, segmentation_scores


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Steps and generations of each image that is sampled."""
    sampled: list[tuple[int, int]] = []
    sample = SegDiffInferer.trajectory

    def spy(self: SegDiffInferer, *args: Any) -> torch.Tensor:
        sampled.append((self.scheduler.num_inference_steps or 0, self.num_generations))
        return sample(self, *args)

    monkeypatch.setattr(SegDiffInferer, "trajectory", spy)
    return sampled


def test_rows_are_the_scores_of_the_steps(
    bundle: Bundle, dataset: Path, weights: Path, tmp_path: Path, calls: list[tuple[int, int]]
) -> None:
    bundle = bundle.with_overrides({"threshold": 0.6})
    rows = trajectory(bundle, dataset, {"ours": str(weights)}, tmp_path, 4, num_generations=2, num_images=2)
    assert calls == [(4, 2)] * 2
    assert [(row["step"], row["timestep"]) for row in rows] == [(1, 99), (2, 74), (3, 49), (4, 24)]
    inferer, network = bundle.inferer(num_inference_steps=4, num_generations=2), bundle.network(weights)
    dice = np.zeros((2, 4))
    for i, item in enumerate(bundle.items(dataset, num_images=2)):
        masks = (inferer.trajectory(item.image[None], network)[:, 0, 0] > 0.6).numpy()
        dice[i] = [segmentation_scores(*overlap_counts(mask, item.label[0].numpy()))["dice"] for mask in masks]
    assert [row["dice"] for row in rows] == pytest.approx(list(dice.mean(0)))
    assert [row["dice_change"] for row in rows] == pytest.approx(list((dice - dice[:, 3:]).mean(0)))
    assert len(set(dice.mean(0))) == 4
    assert (rows[0]["weights"], rows[0]["images"], rows[0]["generations"]) == ("ours", 2, 2)


def test_the_last_step_is_the_result(bundle: Bundle, dataset: Path, weights: Path, tmp_path: Path) -> None:
    last = trajectory(bundle, dataset, {"ours": str(weights)}, tmp_path, steps=3, num_images=1)[-1]
    result = few_steps(bundle, dataset, {"ours": str(weights)}, [Setting(3, 1)], tmp_path, num_images=1)[0]
    for score in ("dice", "iou", "boundary_f"):
        assert last[score] == pytest.approx(result[score]["value"], abs=1e-12)
    for score in ("expected_calibration_error", "paper_calibration_score", "brier_score"):
        # The probabilities are of float32.
        assert last[score] == pytest.approx(result[score], rel=1e-4)


def test_an_interruption_keeps_what_is_done(
    bundle: Bundle, dataset: Path, weights: Path, tmp_path: Path, calls: list[tuple[int, int]]
) -> None:
    def run(num_images: int, **settings: int) -> list[dict[str, Any]]:
        calls.clear()
        return trajectory(bundle, dataset, {"ours": str(weights)}, tmp_path, num_images=num_images, **settings)

    run(1, steps=2)
    run(2, steps=2)
    assert calls == [(2, 1)]
    run(1, steps=2, num_generations=2)
    assert calls == [(2, 2)]
    stored = json.loads((tmp_path / "trajectory.json").read_text())["rows"]
    assert [(row["steps"], row["generations"], len(row["curve"])) for row in stored] == [(2, 1, 2)] * 2 + [(2, 2, 2)]


@pytest.mark.parametrize(
    ("values", "step"),
    [
        ([0.5], 1),
        ([0.8, 0.8, 0.8], 1),
        ([0.1, 0.8, 0.6, 0.79, 0.8], 4),
        ([0.9, 0.8], 2),
        ([0.84, 0.8], 1),
        ([0.8, 0.2, 0.8], 3),
    ],
)
def test_settled_step(values: list[float], step: int) -> None:
    assert settled_step(values, tolerance=0.05) == step


def test_command(
    dataset: Path, weights: Path, tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--dataset_dir", str(dataset), "--weights", f"ours={weights}", f"same={weights}", "--steps", "3"]
    main([*given, "--generations", "2", "--num_images", "2", "--output_dir", str(tmp_path), *words])
    printed = capsys.readouterr().out.splitlines()
    with (tmp_path / "trajectory.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["weights"], row["step"]) for row in rows] == [(name, n) for name in ("ours", "same") for n in "123"]
    dice = [float(row["dice"]) for row in rows[:3]]
    best = int(np.argmax(dice))
    for line, name in zip(printed[2:4], ("ours", "same"), strict=True):
        cells = line.split()
        assert cells[:5] == [name, "sample", f"{dice[0]:.4f}", f"{dice[best]:.4f}", f"({best + 1})"]
        assert cells[5:7] == [f"{dice[2]:.4f}", f"{dice[2] - dice[best]:+.4f}"]
        assert cells[7:] == [f"{float(rows[2]['iou']):.4f}", str(settled_step(dice)), "of", "3"]
    assert "Dice of 2 images" in printed[-1]
    assert "2 generation(s)" in printed[-1]
    with Image.open(tmp_path / "trajectory.png") as picture:
        assert picture.size[0] > 500


def test_picture(tmp_path: Path) -> None:
    rows = [
        {"weights": name, "step": step, "dice": 0.1 * step, "iou": 0.05 * step} for name in "ab" for step in (1, 2, 3)
    ]
    dice, iou = draw_trajectory(tmp_path / "a.png", rows).axes
    for axes, slope in ((dice, 0.1), (iou, 0.05)):
        assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a", "b"]
        for line in axes.lines:
            np.testing.assert_allclose(line.get_xydata(), [[1, slope], [2, 2 * slope], [3, 3 * slope]])
        first, second = (line.get_color() for line in axes.lines)
        assert first != second
    assert [axes.get_ylabel().split()[0] for axes in (dice, iou)] == ["Dice", "IoU"]


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        ({"--steps": "101"}, 2, "101 steps are asked for, expected at most the 100 of"),
        ({"--generations": "0"}, 2, "'0' is not a whole number of at least 1"),
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
    assert "python -m benchmarks.trajectory --dataset_dir VALIDATION" in printed
    assert "within\n0.005" in printed
