# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from training_stub import TrainingStub  # noqa: E402

from benchmarks import training_run as module  # noqa: E402
from benchmarks.bundle import Bundle  # noqa: E402
from benchmarks.training_run import TrainingError, TrainingRun  # noqa: E402
from monai_segdiff.exceptions import CheckpointError, DatasetError  # noqa: E402


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> TrainingStub:
    stub = TrainingStub(weights=False)
    monkeypatch.setattr(module.subprocess, "run", stub)
    return stub


@pytest.fixture
def run(tmp_path: Path) -> TrainingRun:
    return TrainingRun(Bundle({"max_epochs": 3}), "TRAIN", "VALIDATION", 7, tmp_path / "arm" / "seed_7")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Times to come."""
    times: list[float] = []
    monkeypatch.setattr(module.time, "time", lambda: times.pop(0))
    return times


def interrupt(run: TrainingRun, stub: TrainingStub, epoch: int) -> None:
    stub.last_epoch = epoch
    with pytest.raises(KeyboardInterrupt):
        run.train()
    stub.last_epoch = None


def test_finished_run_is_not_repeated(run: TrainingRun, stub: TrainingStub, clock: list[float]) -> None:
    clock += [1000.0, 1060.0]
    found = run.train()
    assert (found["seconds"], found["best_epoch"], found["best_metric"]) == (60.0, 1, 0.25)
    assert run.train() == found
    assert len(stub.calls) == 1


@pytest.mark.parametrize(
    "value", [1, 0.25, 1e-6, True, "sum", "1", "$@max_epochs", "a b", [False, 2], {"_target_": "x.Y", "depth": None}]
)
def test_overrides_are_what_the_command_line_reads(run: TrainingRun, stub: TrainingStub, value: Any) -> None:
    replace(run, bundle=Bundle({"max_epochs": 3, "network_def#conditioning": value})).train()
    folder = {"run_dir": str(run.folder), "bundle_root": str(run.bundle.root)}
    own = {"dataset_dir": "TRAIN", "val_dataset_dir": "VALIDATION", "seed": 7, "resume": False}
    own["config_file"] = [str(run.bundle.root / "configs" / "train.json")]
    assert stub.calls == [{"max_epochs": 3, "network_def#conditioning": value, **folder, **own}]


def test_further_configs(run: TrainingRun, stub: TrainingStub) -> None:
    replace(run, bundle=Bundle({"max_epochs": 3}, ["unet", "paper"])).train()
    configs = run.bundle.root / "configs"
    assert stub.calls[0]["config_file"] == [str(configs / f"{name}.json") for name in ("train", "unet", "paper")]


def test_none_is_an_override_as_well(run: TrainingRun, stub: TrainingStub) -> None:
    replace(run, bundle=Bundle({"max_epochs": 3, "timestep_weights": None})).train()
    assert stub.calls[0]["timestep_weights"] == "$None", "MONAI leaves out options that are None"


def test_interrupted_run_goes_on(run: TrainingRun, stub: TrainingStub, clock: list[float]) -> None:
    clock += [1000.0]
    interrupt(run, stub, epoch=1)
    os.utime(run.folder / "checkpoint.pt", (1040.0, 1040.0))
    # Killed once more, before the next checkpoint: its time was lost, and that before it counts once.
    clock += [2000.0]
    interrupt(run, stub, epoch=1)
    os.utime(run.folder / "checkpoint.pt", (1040.0, 1040.0))
    clock += [3000.0, 3007.0]
    assert run.train()["seconds"] == pytest.approx(40 + 7)
    assert [call["resume"] for call in stub.calls] == [False, True, True]
    assert not clock


def test_run_whose_end_was_not_seen(run: TrainingRun, stub: TrainingStub, clock: list[float]) -> None:
    clock += [1000.0]
    interrupt(run, stub, epoch=3)
    os.utime(run.folder / "checkpoint.pt", (1050.0, 1050.0))
    found = run.train()
    assert (found["seconds"], found["best_epoch"], found["finished"]) == (50.0, 1, True)
    assert len(stub.calls) == 1


def test_run_without_a_checkpoint_starts_again(run: TrainingRun, stub: TrainingStub) -> None:
    interrupt(run, stub, epoch=0)
    (run.folder / "tensorboard").mkdir()  # what a new run of the bundle would not accept
    run.train()
    assert [call["resume"] for call in stub.calls] == [False, False]
    assert [path.name for path in run.folder.iterdir()] == ["checkpoint.pt"]


def test_run_in_an_earlier_stage_goes_on(run: TrainingRun, stub: TrainingStub, clock: list[float]) -> None:
    clock += [1000.0]
    interrupt(run, stub, epoch=0)
    # As a bundle of two stages leaves it, before the first checkpoint of the last one.
    base = run.folder / "base" / "checkpoint.pt"
    base.parent.mkdir()
    torch.save({"trainer": {"epoch": 5}}, base)
    os.utime(base, (1040.0, 1040.0))
    clock += [3000.0, 3007.0]
    assert run.train()["seconds"] == pytest.approx(40 + 7)
    assert [call["resume"] for call in stub.calls] == [False, True]
    assert base.is_file()


def test_record_of_an_earlier_version(run: TrainingRun, stub: TrainingStub) -> None:
    found = run.train()
    path = run.folder.with_name("seed_7.json")
    record = json.loads(path.read_text())
    del record["settings"]["extra_configs"]
    path.write_text(json.dumps(record))
    assert run.train()["seconds"] == found["seconds"]
    with pytest.raises(DatasetError, match=r"extra_configs=\[\]"):
        replace(run, bundle=Bundle({"max_epochs": 3}, ["unet"])).check()


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bundle": Bundle({"max_epochs": 4})}, r"overrides=\{'max_epochs': 3\}; expected overrides=\{'max_epochs': 4"),
        (
            {"bundle": Bundle({"max_epochs": 3}, ["unet"])},
            r"extra_configs=\[\]; expected extra_configs=\['unet'\]",
        ),
        ({"dataset_dir": "OTHER"}, r"dataset_dir='TRAIN'; expected dataset_dir='OTHER'"),
        ({"val_dataset_dir": "OTHER"}, r"val_dataset_dir='VALIDATION'; expected val_dataset_dir='OTHER'"),
        ({"seed": 8}, r"seed=7; expected seed=8"),
    ],
)
def test_run_of_other_settings_is_refused(
    run: TrainingRun, stub: TrainingStub, finished: bool, changes: dict[str, Any], message: str
) -> None:
    if finished:
        run.train()
    else:
        interrupt(run, stub, epoch=1)
    other = replace(run, **changes)
    for action in (other.check, other.train):
        with pytest.raises(DatasetError, match=f"seed_7: was trained with other settings, {message}"):
            action()
    assert len(stub.calls) == 1
    run.check()


def test_foreign_folder_is_refused_and_kept(run: TrainingRun, stub: TrainingStub) -> None:
    run.folder.mkdir(parents=True)
    (run.folder / "precious").touch()
    for action in (run.check, run.train):
        with pytest.raises(DatasetError, match=r"seed_7: exists, but seed_7\.json, .* is not beside it"):
            action()
    assert (run.folder / "precious").exists()
    assert not stub.calls


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"settings": 3}'])
def test_unreadable_record_is_refused(run: TrainingRun, stub: TrainingStub, content: str) -> None:
    run.train()
    run.folder.with_name("seed_7.json").write_text(content)
    with pytest.raises(DatasetError, match=r"seed_7\.json: cannot be read"):
        run.train()


def test_damaged_checkpoint(run: TrainingRun, stub: TrainingStub) -> None:
    interrupt(run, stub, epoch=1)
    (run.folder / "checkpoint.pt").write_bytes(b"half")
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt is damaged"):
        run.train()


def test_failing_training(run: TrainingRun, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import sys; print(*range(40), sep='\\n', flush=True); sys.exit('no such ' + 'thing')"
    monkeypatch.setattr(TrainingRun, "_command", lambda *_: [sys.executable, "-c", code])
    for _ in range(2):  # the second time the log has the first one's end as well
        with pytest.raises(TrainingError) as caught:
            run.train()
        *end, blank, last = str(caught.value).splitlines()
        assert end == [*map(str, range(21, 40)), "no such thing"]
        assert not blank
        assert last == f"{run.folder.with_name('seed_7.log')}: the training ended with status 1, its end above."
    assert not json.loads(run.folder.with_name("seed_7.json").read_text())["finished"]


def test_short_log_of_a_failing_training(run: TrainingRun, monkeypatch: pytest.MonkeyPatch) -> None:
    run.folder.parent.mkdir()
    run.folder.with_name("seed_7.log").write_text("an earlier end\n")
    monkeypatch.setattr(TrainingRun, "_command", lambda *_: [sys.executable, "-c", "raise SystemExit('too bad')"])
    with pytest.raises(TrainingError, match="too bad") as caught:
        run.train()
    assert "an earlier end" not in str(caught.value)
    assert "an earlier end" in run.folder.with_name("seed_7.log").read_text()


def test_training_that_is_still_running_is_waited_for(
    run: TrainingRun, stub: TrainingStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(run, stub, epoch=1)
    waiting, found = threading.Event(), []
    monkeypatch.setattr(module.tqdm, "write", lambda text: waiting.set())
    log = run.folder.with_name("seed_7.log")
    # As a program that was killed leaves it: the training alone holds the log.
    with open(log, "a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        left = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stdout=held)
    other = threading.Thread(target=lambda: found.append(run.train()))
    other.start()
    assert waiting.wait(60)
    state = {"trainer": {"epoch": 3}, "evaluator": {"best_metric": 0.5, "best_metric_epoch": 2}}
    torch.save(state, run.folder / "checkpoint.pt")
    assert not found
    left.communicate(b"\n")
    other.join(60)
    assert found[0]["best_epoch"] == 2
    assert len(stub.calls) == 1
