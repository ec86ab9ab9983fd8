# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

ITERATIONS = 3  # an epoch: three images for training, one a batch
SETTINGS = {"images_per_batch": 1, "warmup_iterations": 0}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def changed(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0


@pytest.mark.end_to_end
def test_killed_run_goes_on(bundle, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = bundle.words("training", "train", run_dir=run, **SETTINGS, max_epochs=1000)
    log = tmp_path / "log"
    with (
        open(log, "w") as file,
        subprocess.Popen(
            [sys.executable, "-m", "monai.bundle", *words],
            cwd=bundle.root,
            env=bundle.environment(),
            stdout=file,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        try:
            for _ in range(3):  # three times until the file has been replaced
                before = changed(run / "checkpoint.pt")
                while changed(run / "checkpoint.pt") == before:
                    assert process.poll() is None, log.read_text()
                    time.sleep(0.002)
        finally:
            process.kill()
    assert process.returncode == -signal.SIGKILL

    saved = torch.load(run / "checkpoint.pt", weights_only=True)
    epoch = saved["trainer"]["epoch"]
    assert epoch >= 3
    assert saved["trainer"]["iteration"] == ITERATIONS * epoch
    torch.load(run / "model.pt", weights_only=True)
    earlier = json.loads((run / "history.json").read_text())["loss"]["value"][: ITERATIONS * epoch]

    words = bundle.words("training", "train", run_dir=run, **SETTINGS, max_epochs=epoch + 2, resume="true")
    done = bundle.process(["-m", "monai.bundle", *words])
    assert f"Resumed {run / 'checkpoint.pt'} after epoch {epoch}." in done.stderr
    assert f"{ITERATIONS * (epoch + 2)}/{ITERATIONS * (epoch + 2)}" in done.stderr
    final = torch.load(run / "checkpoint.pt", weights_only=True)
    assert final["trainer"] == {"epoch": epoch + 2, "iteration": ITERATIONS * (epoch + 2)}
    assert final["evaluator"]["best_metric"] >= saved["evaluator"]["best_metric"]
    history = json.loads((run / "history.json").read_text())
    assert history["loss"]["iteration"] == list(range(1, ITERATIONS * (epoch + 2) + 1))
    assert history["validation"]["epoch"] == list(range(1, epoch + 3))
    assert len(earlier) >= ITERATIONS * (epoch - 1)
    assert history["loss"]["value"][: len(earlier)] == earlier
    assert [path for path in tmp_path.iterdir() if path.name.startswith("run")] == [run], "nothing was moved aside"


@pytest.fixture(scope="module")
def finished(bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    bundle.run("train", run_dir=folder, **SETTINGS)
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """Folder of a run of two epochs."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def test_resumed_run_uses_the_same_split(bundle, run: Path) -> None:
    split = (run / "split.json").read_bytes()
    bundle.run("train", run_dir=run, **SETTINGS, resume=True, max_epochs=3)
    assert (run / "split.json").read_bytes() == split
    assert json.loads((run / "history.json").read_text())["validation"]["epoch"] == [1, 2, 3]


def test_best_model_is_kept(bundle, run: Path) -> None:
    checkpoint = torch.load(run / "checkpoint.pt", weights_only=True)
    checkpoint["evaluator"] = {"best_metric": 2.0, "best_metric_epoch": 1}  # better than any Dice
    torch.save(checkpoint, run / "checkpoint.pt")
    model = (run / "model.pt").read_bytes()
    bundle.run("train", run_dir=run, **SETTINGS, resume=True, max_epochs=4)
    assert (run / "model.pt").read_bytes() == model
    assert torch.load(run / "checkpoint.pt", weights_only=True)["evaluator"]["best_metric"] == 2.0


def test_longer_run_has_a_longer_schedule(bundle, run: Path) -> None:
    workflow = bundle.run("train", run_dir=run, **SETTINGS, resume=True, max_epochs=4)
    schedule = workflow.parser.get_parsed_content("lr_schedule")
    assert (schedule.t_total, schedule.last_epoch) == (4 * ITERATIONS, 4 * ITERATIONS)


def test_average_is_not_warmed_up_again(bundle, run: Path) -> None:
    workflow = bundle.run("train", run_dir=run, **SETTINGS, resume=True, max_epochs=3)
    state = workflow.parser.get_parsed_content("train#trainer").state
    assert state.iteration == 3 * ITERATIONS
    assert state.ema_momentum == pytest.approx(9 / (10 + 3 * ITERATIONS))


def test_new_run_moves_the_earlier_one_aside(bundle, run: Path) -> None:
    old = contents(run)
    bundle.run("train", run_dir=run, **SETTINGS, seed=1)
    (aside,) = (path for path in run.parent.iterdir() if path != run)
    assert aside.name.startswith("run-")
    assert contents(aside) == old
    new = contents(run)
    assert {"checkpoint.pt", "model.pt", "history.json"} <= new.keys()
    assert new["checkpoint.pt"] != old["checkpoint.pt"]
    assert torch.load(run / "checkpoint.pt", weights_only=True)["trainer"]["epoch"] == 2
