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
from benchmarks.generations import generation_curve, generation_orders, generations, main
from benchmarks.generations_plot import draw_generations
from monai_segdiff import SegDiffInferer, bootstrap_interval
from monai_segdiff.metrics.calibration_score import calibration_counts, calibration_scores


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Steps and generations of each image that is sampled."""
    sampled: list[tuple[int, int]] = []
    sample = SegDiffInferer.generations

    def spy(self: SegDiffInferer, *args: Any) -> torch.Tensor:
        sampled.append((self.scheduler.num_inference_steps or 0, self.num_generations))
        return sample(self, *args)

    monkeypatch.setattr(SegDiffInferer, "generations", spy)
    return sampled


@pytest.mark.parametrize("backwards", [False, True])
def test_means_of_the_first_ones_in_closed_form(backwards: bool) -> None:
    # Pixel j is foreground in the first j of N generations; half of the pixels are truly foreground.
    number = 8
    pixels = np.arange(number + 1)
    samples = (np.arange(number)[:, None, None] < pixels).astype(np.float32)
    truth = (pixels >= 4)[None]
    order = np.arange(number)[::-1] if backwards else np.arange(number)
    curve = generation_curve(samples, truth, order)
    assert len(curve) == number
    for n, scores in enumerate(curve, start=1):
        hits = np.maximum(n - (number - pixels), 0) if backwards else np.minimum(n, pixels)
        # Half of the generations are not enough.
        predicted = 2 * hits > n
        both = (predicted & truth[0]).sum()
        assert scores["dice"] == 2 * both / (predicted.sum() + truth.sum())
        assert scores["iou"] == both / (predicted | truth[0]).sum()
        assert scores["brier_score"] == pytest.approx(((hits / n - truth[0]) ** 2).mean())
        assert scores["calibration"] == calibration_counts((hits / n)[None], truth).tolist()
    assert curve[3]["dice"] != curve[0]["dice"]


def test_the_mean_of_equal_numbers_is_that_number() -> None:
    samples = np.full((30, 4, 4), 0.1, dtype=np.float32)
    curve = generation_curve(samples, np.ones((4, 4), dtype=bool), range(30), threshold=float(np.float32(0.1)))
    assert [scores["dice"] for scores in curve] == [0.0] * 30


def test_the_threshold_is_used() -> None:
    samples = np.full((2, 4, 4), 0.4, dtype=np.float32)
    for threshold, dice in ((0.3, 1.0), (0.45, 0.0)):
        assert generation_curve(samples, np.ones((4, 4), dtype=bool), [0, 1], threshold)[1]["dice"] == dice


def test_orders() -> None:
    orders = generation_orders(30, 10)
    assert orders.shape == (10, 30)
    assert (orders[0] == np.arange(30)).all()
    assert (np.sort(orders, axis=1) == np.arange(30)).all()
    assert len({tuple(order) for order in orders}) == 10
    assert (generation_orders(30, 4) == orders[:4]).all()


def test_rows_are_those_of_few_steps(
    bundle: Bundle, dataset: Path, weights: Path, tmp_path: Path, calls: list[tuple[int, int]]
) -> None:
    rows = generations(bundle, dataset, {"ours": str(weights)}, tmp_path, 2, 3, num_orders=1, num_images=2)
    assert calls == [(2, 3)] * 2
    settings = [Setting(2, number) for number in (1, 2, 3)]
    expected = few_steps(bundle, dataset, {"ours": str(weights)}, settings, tmp_path / "b", num_images=2)
    first = [image["dice"] for image in expected[0]["images"]]
    for number, (row, other) in enumerate(zip(rows, expected, strict=True), start=1):
        assert (row["weights"], row["steps"], row["generations"]) == ("ours", 2, number)
        assert (row["images"], row["orders"]) == (2, 1)
        for score in ("dice", "iou", "boundary_f"):
            assert row[score] == pytest.approx(other[score]["value"], rel=1e-12)
            assert (row[f"{score}_low"], row[f"{score}_high"]) == pytest.approx(other[score]["interval"], rel=1e-12)
            assert row[f"{score}_deviation"] is None
        for score in ("expected_calibration_error", "paper_calibration_score", "brier_score"):
            assert row[score] == pytest.approx(other[score], rel=1e-12)
            assert row[f"{score}_deviation"] is None
        change = [image["dice"] - dice for image, dice in zip(other["images"], first, strict=True)]
        assert row["dice_change"] == pytest.approx(np.mean(change), abs=1e-12)
        assert (row["dice_change_low"], row["dice_change_high"]) == pytest.approx(bootstrap_interval(change), abs=1e-12)


def test_mean_and_deviation_over_orders(bundle: Bundle, dataset: Path, weights: Path, tmp_path: Path) -> None:
    bundle = bundle.with_overrides({"threshold": 0.6})
    rows = generations(bundle, dataset, {"ours": str(weights)}, tmp_path, 1, 4, num_orders=3, num_images=2)
    inferer, network = bundle.inferer(num_inference_steps=1, num_generations=4), bundle.network(weights)
    orders, items = generation_orders(4, 3), bundle.items(dataset, num_images=2)
    samples = [inferer.generations(item.image[None], network)[:, 0, 0].numpy().astype(np.float64) for item in items]
    for number in range(1, 5):
        dice, paper = np.zeros((3, 2)), np.zeros(3)
        for i, order in enumerate(orders):
            counts = np.zeros((10, 3))
            for j, item in enumerate(items):
                mean, truth = samples[j][order[:number]].mean(0), item.label[0].numpy()
                dice[i, j] = 2 * ((mean > 0.6) & truth).sum() / ((mean > 0.6).sum() + truth.sum())
                counts += calibration_counts(mean, truth)
            paper[i] = calibration_scores(counts)["paper_calibration_score"]
        row = rows[number - 1]
        assert (row["dice"], row["dice_deviation"]) == pytest.approx((dice.mean(), dice.mean(1).std()), abs=1e-12)
        assert (row["dice_low"], row["dice_high"]) == pytest.approx(bootstrap_interval(dice.mean(0)), abs=1e-12)
        found = (row["paper_calibration_score"], row["paper_calibration_score_deviation"])
        assert found == pytest.approx((paper.mean(), paper.std()), abs=1e-12)
    assert rows[0]["dice_deviation"] > 1e-4
    # All orders end in the same mean.
    assert rows[-1]["dice_deviation"] == pytest.approx(0, abs=1e-12)
    assert rows[0]["dice_change"] == 0
    assert rows[-1]["dice_change"] == pytest.approx(rows[-1]["dice"] - rows[0]["dice"])


def test_an_interruption_keeps_what_is_done(
    bundle: Bundle, dataset: Path, weights: Path, tmp_path: Path, calls: list[tuple[int, int]]
) -> None:
    def run(num_images: int, num_orders: int = 2) -> list[dict[str, Any]]:
        calls.clear()
        return generations(bundle, dataset, {"ours": str(weights)}, tmp_path, 1, 2, num_orders, num_images)

    run(1)
    first = json.loads((tmp_path / "generations.json").read_text())["rows"]
    assert [len(row["curves"]) for row in first] == [2]
    run(2)
    assert calls == [(1, 2)]
    assert json.loads((tmp_path / "generations.json").read_text())["rows"][:1] == first
    run(1, num_orders=1)
    assert calls == [(1, 2)]


def test_command(
    dataset: Path, weights: Path, tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--dataset_dir", str(dataset), "--weights", f"ours={weights}", f"same={weights}", "--num_images", "1"]
    main([*given, "--steps", "1", "--max_generations", "3", "--num_orders", "2", "--output_dir", str(tmp_path), *words])
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split()[:4] == ["weights", "generations", "Dice", "+-"]
    assert [line.split()[:2] for line in printed[2:8]] == [[name, n] for name in ("ours", "same") for n in "123"]
    assert "Images: 1. Steps: 1. +-: deviation over 2 order(s)." in printed[-1]
    with (tmp_path / "generations.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["generations"] for row in rows] == ["1", "2", "3"] * 2
    assert printed[3].split()[2:4] == [f"{float(rows[1][name]):.4f}" for name in ("dice", "dice_deviation")]
    assert printed[3].split()[-2] == f"{float(rows[1]['paper_calibration_score']):.5f}"
    with Image.open(tmp_path / "generations.png") as picture:
        assert picture.size[0] > 500


def test_picture(tmp_path: Path) -> None:
    rows = [
        {
            "weights": name,
            "generations": n,
            "dice": 0.5 + 0.1 * n,
            "dice_deviation": deviation,
            "expected_calibration_error": 0.1 / n,
            "paper_calibration_score": 0.01 / n,
            "brier_score": 0.2 / n,
        }
        for name, deviation in (("a", 0.02), ("b", None))
        for n in (1, 2, 3)
    ]
    quality, calibration = draw_generations(tmp_path / "a.png", rows).axes
    assert [text.get_text() for text in quality.get_legend().get_texts()] == ["a", "b"]
    np.testing.assert_allclose(quality.lines[0].get_xydata(), [[1, 0.6], [2, 0.7], [3, 0.8]])
    band = quality.collections[0].get_paths()[0].vertices
    assert sorted({round(float(y), 6) for y in band[:, 1]}) == [0.58, 0.62, 0.68, 0.72, 0.78, 0.82]
    drawn = [line.get_ydata()[0] for line in calibration.lines if len(line.get_ydata())]
    np.testing.assert_allclose(drawn, [0.1, 0.01, 0.2] * 2)
    assert [text.get_text() for text in calibration.get_legend().get_texts()] == [
        "expected calibration error",
        "paper's score",
        "Brier score",
    ]


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        ({"--steps": "0"}, 2, "'0' is not a whole number of at least 1"),
        ({"--steps": "101"}, 2, "101 steps are asked for, expected at most the 100 of"),
        ({"--max_generations": "0"}, 2, "'0' is not a whole number of at least 1"),
        ({"--num_orders": "some"}, 2, "'some' is not a whole number of at least 1"),
        ({"--weights": "model.pt"}, 2, "'model.pt' is not of the form NAME=PATH"),
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


def test_help_explains_the_orders(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    printed = capsys.readouterr().out
    assert "python -m benchmarks.generations --dataset_dir VALIDATION" in printed
    assert "random orders" in printed
