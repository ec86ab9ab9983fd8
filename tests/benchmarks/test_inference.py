# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks import inference as module
from benchmarks.bundle import Bundle, Item
from benchmarks.cost import bundle_macs
from benchmarks.image_scores import overlap_counts
from benchmarks.inference import compare_inference, main
from benchmarks.measurement import measure
from benchmarks.passes import Passes
from benchmarks.procedures import procedures
from monai_segdiff import segmentation_scores

# As few training steps and generations as there can be, so that the released procedure takes seconds.
STEPS, GENERATIONS = 21, 2


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    """Two generations instead of nine, no repetitions, small matrices, whole images not measured."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("benchmarks.procedures.GENERATIONS", GENERATIONS)
        patch.setattr("benchmarks.measurement.SHORT_SECONDS", 0.0)
        patch.setattr("benchmarks.cost.MATRIX_SIZES", {"cpu": 64})
        patch.setattr(module, "FULL_SECONDS", 0.0)
        yield


@pytest.fixture(scope="module")
def small(bundle: Bundle) -> Bundle:
    return bundle.with_overrides({"num_train_timesteps": STEPS, "window_size": 16, "window_overlap": 0.5})


@pytest.fixture(scope="module")
def items(small: Bundle, dataset: Path) -> list[Item]:
    """Parts of 32 pixels: four windows without overlap, nine with."""
    return [Item(i.name, i.image[:, :32, :32].contiguous(), i.label[:, :32, :32]) for i in small.items(dataset)[:2]]


@pytest.fixture(scope="module")
def rows(small: Bundle, items: list[Item], weights: Path) -> dict[str, dict[str, Any]]:
    found = compare_inference(small, items, str(weights), procedures(small), window_limit=2, measure=measure)
    return {row["key"]: row for row in found}


def test_passes(rows: dict[str, dict[str, Any]]) -> None:
    # On crops of two windows, and on whole images, which have four (with overlap three and nine).
    expected = {
        "released": ((2 * GENERATIONS * STEPS,) * 2, (4 * GENERATIONS * STEPS,) * 2),
        "cached": ((2, 2 * GENERATIONS * STEPS), (4, 4 * GENERATIONS * STEPS)),
        "channels_last": ((2, 2 * GENERATIONS * STEPS), (4, 4 * GENERATIONS * STEPS)),
        "packed": ((2, 2 * GENERATIONS * STEPS), (4, 4 * GENERATIONS * STEPS)),
        "few_steps": ((2, 2 * GENERATIONS * 10), (4, 4 * GENERATIONS * 10)),
        "default_steps": ((2, 2 * GENERATIONS), (4, 4 * GENERATIONS)),
        "default_generations": ((2, 2), (4, 4)),
        "default": ((3, 3), (9, 9)),
    }
    for key, row in rows.items():
        for found, passes in zip((row, row["full_image"]), expected[key], strict=True):
            assert (found["encoder_passes"], found["denoiser_passes"]) == passes, key


def test_windows_of_two_sizes(small: Bundle, items: list[Item], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.procedures.released_window", lambda bundle: 32)
    few = [row for row in procedures(small) if row.key in ("default_generations", "default")]
    large, default = compare_inference(small, items, None, few, measure=measure)
    assert (large["window"], default["window"]) == (32, 16)
    assert (large["denoiser_passes"], default["denoiser_passes"]) == (1, 9)
    assert large["macs"] == sum(bundle_macs(small, 32))
    # Nine windows of a quarter of the area.
    assert default["macs"] == 9 * sum(bundle_macs(small, 16))


def test_multiply_accumulates(rows: dict[str, dict[str, Any]], small: Bundle) -> None:
    macs = bundle_macs(small)
    for row in rows.values():
        for found in (row, row["full_image"]):
            assert found["macs"] == macs.of(Passes(found["encoder_passes"], found["denoiser_passes"]))


def test_scores_are_of_the_crops(
    rows: dict[str, dict[str, Any]], small: Bundle, items: list[Item], weights: Path
) -> None:
    masks = {}
    for procedure in procedures(small):
        if procedure.key not in ("released", "default"):
            continue
        network = small.network(weights, channels_last=procedure.channels_last)
        inferer = small.inferer(**procedure.arguments)
        # Two windows of 16 pixels side by side, in the centre of 32.
        masks[procedure.key] = [(inferer(item.image[None, :, 8:24], network)[0, 0] > 0.5).numpy() for item in items]
        truths = [item.label[0, 8:24].numpy() for item in items]
        pairs = zip(masks[procedure.key], truths, strict=True)
        scores = [segmentation_scores(*overlap_counts(*pair)) for pair in pairs]
        row = rows[procedure.key]
        assert row["dice"]["value"] == pytest.approx(np.mean([score["dice"] for score in scores]))
        assert row["iou"]["value"] == pytest.approx(np.mean([score["iou"] for score in scores]))
    changed = np.mean([np.mean(a != b) for a, b in zip(masks["released"], masks["default"], strict=True)])
    assert rows["default"]["changed_pixels"] == pytest.approx(changed)
    assert rows["released"]["changed_pixels"] == 0
    assert 0 < rows["default"]["changed_pixels"] < 1


def test_encoding_once_and_packing_change_no_decision(rows: dict[str, dict[str, Any]]) -> None:
    assert rows["cached"]["changed_pixels"] == 0
    assert rows["cached"]["dice"] == rows["released"]["dice"]
    # Another memory layout rounds otherwise.
    assert rows["channels_last"]["changed_pixels"] < 0.01


def test_short_whole_images_are_measured_and_long_ones_scaled(
    small: Bundle, items: list[Item], weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = procedures(small)[-1:]
    for limit, scaled in ((60.0, False), (0.0, True)):
        monkeypatch.setattr(module, "FULL_SECONDS", limit)
        (row,) = compare_inference(small, items, str(weights), last, window_limit=1, measure=measure)
        assert row["full_image"]["seconds_are_scaled"] == scaled
        assert not row["seconds_are_scaled"]
        if scaled:
            assert row["full_image"]["seconds"] == pytest.approx(9 * row["seconds"])
    (row,) = compare_inference(small, items, str(weights), last, measure=measure)
    # Without a crop there is nothing to scale.
    assert row["full_image"]["seconds"] == row["seconds"]
    assert not row["full_image"]["seconds_are_scaled"]


def test_random_weights_are_not_scored(small: Bundle, items: list[Item], monkeypatch: pytest.MonkeyPatch) -> None:
    released = procedures(small)[:1]
    (row,) = compare_inference(small, items, None, released, window_limit=1, passes_limit=2, measure=measure)
    assert (row["dice"], row["iou"], row["changed_pixels"]) == (None, None, None)
    assert row["seconds_are_scaled"]
    assert row["denoiser_passes"] == GENERATIONS * STEPS


def test_command(
    dataset: Path,
    weights: Path,
    tmp_path: Path,
    words: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "measure_isolated", measure)
    given = ["--dataset_dir", str(dataset), "--ckpt", str(weights), "--rows", "default_generations", "default"]
    main([*given, "--num_images", "2", "--window_limit", "1", "--output_dir", str(tmp_path), *words])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[0] == "procedure"
    assert lines[3].startswith("+ 25 % overlapping windows of 64 = default")
    content = json.loads((tmp_path / "inference.json").read_text())
    assert [row["key"] for row in content["rows"]] == ["default_generations", "default"]
    assert content["rows"][0]["times_less_than_first"]["macs"] == 1
    # 96 pixels take four windows of 64, with and without overlap.
    assert content["rows"][1]["times_less_than_first"]["macs"] == 1
    assert content["machine"]["peak_macs_per_second"] > 0
    with Image.open(tmp_path / "inference.png") as picture:
        assert picture.size[0] > 500


def test_published_network(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = []

    def record(job: Any) -> Any:
        jobs.append(job)
        tiny = {"network_def#channels": [64] * 7, "network_def#num_rrdb_blocks": 1, "network_def#num_res_blocks": 1}
        return measure(module.replace(job, overrides={**job.overrides, **tiny}))

    monkeypatch.setattr(module, "measure_isolated", record)
    given = ["--dataset_dir", str(dataset), "--random_weights", "--config", "paper", "--rows", "default"]
    small = ["--device", "cpu", "--override", "image_scale=1.0", "window_size=64"]
    main([*given, "--num_images", "1", "--window_limit", "1", "--output_dir", str(tmp_path), *small])
    assert jobs[0].overrides["network_def"]["channels"] == [128, 128, 128, 256, 256, 512, 512]
    assert jobs[0].overrides["prediction_type"] == "epsilon"
    assert jobs[0].weights is None
    content = json.loads((tmp_path / "inference.json").read_text())
    assert content["rows"][0]["dice"] is None
    assert not (tmp_path / "inference.png").exists()
    assert " - " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        (["--ckpt", "none.pt"], 1, "CheckpointError: Checkpoint none.pt does not exist."),
        (["--rows", "all"], 2, "all not known, expected some of released cached"),
        (["--window_limit", "0"], 2, "'0' is not a whole number of at least 1"),
        (["--num_images", "x"], 2, "'x' is not a whole number"),
        (["--window_limit", "5"], 1, "5 windows cover (64, 320) pixels, the image has (96, 96)"),
        (["--ckpt", "a.pt", "--random_weights"], 2, "not allowed with argument"),
        (["--config", "mine"], 2, "invalid choice: 'mine'"),
    ],
)
def test_bad_command_lines(
    dataset: Path,
    weights: Path,
    changes: list[str],
    code: int,
    message: str,
    words: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = ["--dataset_dir", str(dataset), "--output_dir", str(tmp_path), *words]
    ckpt = [] if {"--ckpt", "--random_weights"} & set(changes) else ["--ckpt", str(weights)]
    with pytest.raises(SystemExit) as stopped:
        main([*given, *ckpt, *changes])
    assert stopped.value.code == code
    assert message in capsys.readouterr().err


def test_weights_of_another_network(dataset: Path, weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--dataset_dir", str(dataset), "--ckpt", str(weights), "--device", "cpu"])
    assert "written for another network" in capsys.readouterr().err
