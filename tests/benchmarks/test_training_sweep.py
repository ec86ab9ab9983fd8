# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import csv
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))

from training_stub import TrainingStub  # noqa: E402

from benchmarks import training_run  # noqa: E402
from benchmarks.bundle import Bundle  # noqa: E402
from benchmarks.few_steps import score_weights  # noqa: E402
from benchmarks.study import Setting  # noqa: E402
from benchmarks.training_run import TrainingError, TrainingRun  # noqa: E402
from benchmarks.training_sweep import Arm, main, training_sweep  # noqa: E402
from monai_segdiff import generate_sample_dataset  # noqa: E402
from monai_segdiff.exceptions import DatasetError  # noqa: E402

ROOT = Path(__file__).parents[2]
BLOCKS = "network_def#num_rrdb_blocks"
ARMS = [Arm("1", {BLOCKS: 1}, 1), Arm("two blocks", {BLOCKS: 2}, 2)]
SETTINGS = [Setting(1, 1), Setting(2, 2)]


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> TrainingStub:
    stub = TrainingStub()
    monkeypatch.setattr(training_run.subprocess, "run", stub)
    return stub


@pytest.fixture(scope="module")
def short(bundle: Bundle) -> Bundle:
    return bundle.with_overrides({"max_epochs": 3})


@pytest.fixture(scope="module")
def data(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Images to train on and images to validate on."""
    return generate_sample_dataset(tmp_path_factory.mktemp("train"), num_images=2, image_size=64, seed=1), dataset


def test_rows(short: Bundle, data: tuple[Path, Path], tmp_path: Path, stub: TrainingStub) -> None:
    rows = training_sweep(short, *data, ARMS, tmp_path, SETTINGS, seeds=(0, 5), num_images=2)
    # All arms with one seed first, so that they can be compared early.
    assert [(call[BLOCKS], call["seed"]) for call in stub.calls] == [(1, 0), (2, 0), (1, 5), (2, 5)]
    names = [(row["arm"], row["value"], row["steps"], row["generations"]) for row in rows]
    assert names == [("1", 1, 1, 1), ("1", 1, 2, 2), ("two blocks", 2, 1, 1), ("two blocks", 2, 2, 2)]

    # The scores are those of the weights of the two trainings, alone.
    bundle = short.with_overrides({BLOCKS: 2})
    weights = {str(seed): str(tmp_path / "two_blocks" / f"seed_{seed}" / "model.pt") for seed in (0, 5)}
    alone = score_weights(bundle, data[1], weights, SETTINGS, tmp_path / "alone", num_images=2)
    for row, own in zip(rows[2:], ([alone[0], alone[2]], [alone[1], alone[3]]), strict=True):
        for score in ("dice", "iou", "boundary_f"):
            of_images = [[image[score] for image in one["images"]] for one in own]
            means = [sum(same) / 2 for same in zip(*of_images, strict=True)]
            assert [image[score] for image in row["images"]] == pytest.approx(means)
            assert row[score]["value"] == pytest.approx(sum(means) / 2)
            assert row[score]["interval"] == pytest.approx(sorted(means)), "with two images"
            assert [seed[score] for seed in row["seeds"]] == pytest.approx([one[score]["value"] for one in own])
        for measure in ("brier_score", "expected_calibration_error"):
            assert row[measure] == pytest.approx((own[0][measure] + own[1][measure]) / 2)
    assert rows[2]["spread"] is None
    assert rows[3]["spread"] == pytest.approx((alone[1]["spread"] + alone[3]["spread"]) / 2)
    assert alone[0]["dice"] != alone[2]["dice"]

    state = bundle.network().state_dict()
    assert rows[2]["parameters"] == sum(value.numel() for value in state.values())
    of_image = [value.numel() for name, value in state.items() if name.startswith("image_encoder")]
    assert rows[2]["image_parameters"] == sum(of_image)
    assert rows[0]["image_parameters"] < rows[2]["image_parameters"]
    assert [seed["seed"] for seed in rows[2]["seeds"]] == [0, 5]
    assert [(seed["best_epoch"], seed["best_validation_dice"]) for seed in rows[2]["seeds"]] == [(1, 0.25)] * 2

    written = json.loads((tmp_path / "training_sweep.json").read_text())
    assert written["rows"] == json.loads(json.dumps(rows))
    protocol = written["protocol"]
    assert protocol["overrides"] == short.overrides
    assert protocol["epochs"] == {"1": 3, "two blocks": 3}
    assert protocol["seeds"] == [0, 5]
    assert protocol["images"] == ["sample_000", "sample_001"]
    assert protocol["device"] == "cpu"


def test_only_what_is_missing_is_trained(
    short: Bundle, data: tuple[Path, Path], tmp_path: Path, stub: TrainingStub
) -> None:
    rows = training_sweep(short, *data, ARMS[:1], tmp_path, SETTINGS[:1], num_images=1)
    again = training_sweep(short, *data, ARMS, tmp_path, SETTINGS[:1], num_images=1)
    assert [call[BLOCKS] for call in stub.calls] == [1, 2]
    assert again[0] == rows[0]


def test_failure_keeps_the_earlier_trainings(
    short: Bundle, data: tuple[Path, Path], tmp_path: Path, stub: TrainingStub
) -> None:
    training_sweep(short, *data, ARMS[:1], tmp_path, SETTINGS[:1], num_images=1)
    stub.status = 1
    with pytest.raises(TrainingError, match=r"seed_0\.log: the training ended with status 1"):
        training_sweep(short, *data, ARMS, tmp_path, SETTINGS[:1], num_images=1)
    assert (tmp_path / "1" / "seed_0" / "model.pt").exists()
    stub.status = 0
    assert len(training_sweep(short, *data, ARMS, tmp_path, SETTINGS[:1], num_images=1)) == 2
    assert [call[BLOCKS] for call in stub.calls] == [1, 2, 2]


def test_other_trainings_are_refused_before_anything_is_trained(
    short: Bundle, data: tuple[Path, Path], tmp_path: Path, stub: TrainingStub
) -> None:
    training_sweep(short, *data, ARMS[1:], tmp_path, SETTINGS[:1], num_images=1)
    longer = short.with_overrides({"max_epochs": 4})
    with pytest.raises(DatasetError, match=r"two_blocks/seed_0: was trained with other settings, .*'max_epochs': 3"):
        training_sweep(longer, *data, ARMS, tmp_path, SETTINGS[:1], num_images=1)
    assert len(stub.calls) == 1


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"network_def#conditioning": "nothing"}, "conditioning must be 'sum'"),
        ({"network_def#image_encoder": {"_target_": "monai_segdiff.NoSuchEncoder"}}, "NoSuchEncoder"),
        ({"prediction_type": "mask"}, "Unsupported option 'mask'"),
    ],
)
def test_what_cannot_be_built_is_refused(
    short: Bundle, data: tuple[Path, Path], tmp_path: Path, stub: TrainingStub, overrides: dict[str, Any], message: str
) -> None:
    with pytest.raises(TrainingError, match=f"odd: the network or its sampler cannot be built: .*{message}"):
        training_sweep(short, *data, [ARMS[0], Arm("odd", overrides)], tmp_path)
    assert not stub.calls


def command(data: tuple[Path, Path], output_dir: Path, tiny: list[str], *words: str) -> list[str]:
    given = ["--dataset_dir", str(data[0]), "--val_dataset_dir", str(data[1]), "--output_dir", str(output_dir)]
    return [*given, *words, *tiny, "max_epochs=3"]


def test_command(
    data: tuple[Path, Path],
    tmp_path: Path,
    stub: TrainingStub,
    words: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    varied = [
        "--vary",
        BLOCKS,
        "--values",
        "1",
        "2",
        "--settings",
        "1x1",
        "2x1",
        "--seeds",
        "0",
        "1",
        "--num_images",
        "2",
    ]
    main(command(data, Path("out"), words, *varied))
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split()[:2] == ["arm", "steps"]
    assert [line.split()[:4] for line in printed[2:6]] == [[a, s, "x", "1"] for a in "12" for s in "12"]
    assert "Images: 2" in printed[-2]
    with (tmp_path / "out" / "training_sweep.csv").open() as file:
        rows = [{name: float(row[name]) for name in row if name.startswith("dice")} for row in csv.DictReader(file)]
    for i, row in enumerate(rows):
        # The change is from the first arm under the same setting.
        assert row["dice_change"] == pytest.approx(row["dice"] - rows[i % 2]["dice"])
        assert row["dice_change_low"] <= row["dice_change"] <= row["dice_change_high"]
        assert row["dice_seed_min"] < row["dice"] < row["dice_seed_max"]
    assert len(rows) == 4
    with Image.open(tmp_path / "out" / "training_sweep.png") as picture:
        assert picture.size[0] > 500


def test_named_arms_score_as_their_configs_say(
    data: tuple[Path, Path], tmp_path: Path, stub: TrainingStub, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    both = ["network_def#conditioning=concat_features", "num_generations=2"]
    arms = ["--num_images", "1", "--arm", "as it is", "--arm", "T=30"]
    with pytest.raises(SystemExit):
        main(command(data, tmp_path, words, *arms, *both))
    assert "--arm T=30: expected a name" in capsys.readouterr().err
    arms[-1] = "two changes"
    main([*command(data, tmp_path, words, *arms, *both), "num_inference_steps=@num_generations"])
    rows = json.loads((tmp_path / "training_sweep.json").read_text())["rows"]
    names = [(row["arm"], row["steps"], row["generations"]) for row in rows]
    assert names == [("as it is", 1, 1), ("two changes", 2, 2)]
    assert [row["value"] for row in rows] == [None, None]
    assert rows[0]["parameters"] < rows[1]["parameters"]
    changed = {"network_def#conditioning": "concat_features", "num_generations": 2}
    assert rows[1]["overrides"] == changed
    assert stub.calls[1].items() >= changed.items()
    assert "network_def#conditioning" not in stub.calls[0]


@pytest.mark.parametrize(
    ("given", "code", "message"),
    [
        (["--vary", "dice_weight"], 2, "expected either --vary with --values, or --arm"),
        ([], 2, "expected either --vary with --values, or --arm"),
        (["--vary", "dice_weight", "--values", "1", "--arm", "a"], 2, "expected either --vary with"),
        (["--vary", "seed", "--values", "1", "2"], 2, "seed: set by the sweep"),
        (["--arm", "a", "run_dir=x"], 2, "run_dir: set by the sweep"),
        (["--arm", "a b", "--arm", "a/b"], 2, "arms ['a b', 'a/b']: expected names"),
        (["--arm", ".."], 2, "arms ['..']: expected names"),
        (["--arm", "a", "--seeds", "1", "1"], 2, "no seed twice"),
        (["--arm", "a", "--seeds", "-1"], 2, "'-1' is not a whole number of at least 0"),
        (["--arm", "a", "--settings", "101x1"], 2, "a: 101 steps are asked for, expected at most its 100"),
        (["--vary", "dice_wait", "--values", "1"], 1, "Unknown override dice_wait"),
        (["--arm", "a", "--dataset_dir", "nowhere"], 1, "this dataset folder does not exist"),
        (["--arm", "a", "network_def#conditioning=x"], 1, "cannot be built: conditioning must be"),
    ],
)
def test_bad_command_lines(
    data: tuple[Path, Path],
    tmp_path: Path,
    stub: TrainingStub,
    words: list[str],
    given: list[str],
    code: int,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([*command(data, tmp_path / "out", [], *given)[:-1], *words])
    assert stopped.value.code == code
    assert message in capsys.readouterr().err
    assert not stub.calls
    assert not (tmp_path / "out").exists()


def test_failing_training_ends_the_command(
    data: tuple[Path, Path], tmp_path: Path, stub: TrainingStub, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    stub.status = 1
    with pytest.raises(SystemExit) as stopped:
        main(command(data, tmp_path, words, "--arm", "a"))
    assert stopped.value.code == 1
    printed = capsys.readouterr().err
    assert "training 1\n\n" in printed
    assert "the training ended with status 1" in printed


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    printed = capsys.readouterr().out
    assert "--vary network_def#num_rrdb_blocks --values 1 3 5 10" in printed
    assert '--arm "both channels"' in printed


@pytest.mark.end_to_end
def test_killed_sweep_of_the_bundle(
    data: tuple[Path, Path], tmp_path: Path, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    given = command(data, tmp_path / "out", words, "--vary", BLOCKS, "--values", "1", "--settings", "1x1")
    given += ["crop_size=32", "val_interval=1"]
    run = tmp_path / "out" / "1" / "seed_0"
    with subprocess.Popen([sys.executable, "-m", "benchmarks.training_sweep", *given], cwd=ROOT) as process:
        while not (run / "checkpoint.pt").exists():
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()  # the training goes on alone
    main(given)
    log = run.with_name("seed_0.log").read_text()
    assert log.count("-m monai.bundle run training") == 1
    (row,) = json.loads((tmp_path / "out" / "training_sweep.json").read_text())["rows"]
    (seed,) = row["seeds"]
    history = json.loads((run / "history.json").read_text())["validation"]
    assert history["epoch"] == [1, 2, 3]
    assert seed["best_epoch"] == history["value"].index(max(history["value"])) + 1
    assert seed["dice"] == pytest.approx(seed["best_validation_dice"], abs=1e-5)
    assert seed["dice"] == pytest.approx(max(history["value"]), abs=1e-5)

    # As if it had been killed after the third of four epochs.
    record = json.loads(run.with_name("seed_0.json").read_text())
    longer = record["settings"]["overrides"] | {"max_epochs": 4}
    record |= {"settings": record["settings"] | {"overrides": longer}, "finished": False}
    run.with_name("seed_0.json").write_text(json.dumps(record))
    TrainingRun(Bundle(longer), *map(str, data), 0, run).train()
    assert "Resumed" in run.with_name("seed_0.log").read_text()
    assert torch.load(run / "checkpoint.pt")["trainer"]["epoch"] == 4
