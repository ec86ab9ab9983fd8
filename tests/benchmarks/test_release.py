# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from benchmarks import release as module
from benchmarks.bundle import MONUSEG, Bundle
from benchmarks.command import override
from benchmarks.quality_row import QualityRow
from benchmarks.recipe import RECIPES, Recipe, Stage
from benchmarks.release import main, release
from benchmarks.training_run import TrainingError, TrainingRun
from monai_segdiff import generate_sample_dataset
from monai_segdiff.exceptions import CheckpointError, DatasetError

ROOT = Path(__file__).parents[2]
Command = Callable[[Path], list[str]]
Again = Callable[..., Any]
EACH = {"val_interval": 1, "checkpoint_interval": 1, "crop_size": 32, "amp": False}
# The second stage learns nothing, at another scale: its weights are those that it starts from.
FIRST = {**EACH, "max_epochs": 1, "image_scale": 1.0, "window_size": 64, "learning_rate": 0.1, "warmup_iterations": 0}
SECOND = {**EACH, "max_epochs": 3, "image_scale": 0.5, "window_size": 32, "learning_rate": 0.0}
DRIVER = f"""
import sys
from benchmarks import recipe, release
stages = recipe.Stage("first", {FIRST}), recipe.Stage("second", {SECOND})
recipe.RECIPES["tiny"] = recipe.Recipe(recipe.MONUSEG, stages)
release.main(sys.argv[1:])
"""
PUBLISHED = ("model.pt", "model.json", "split.json")


@pytest.fixture(scope="module", autouse=True)
def recipe() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(RECIPES, "tiny", Recipe(MONUSEG, (Stage("first", FIRST), Stage("second", SECOND))))
        patch.setenv("PYTHONPATH", str(ROOT))
        yield


@pytest.fixture(scope="module")
def small(tiny: dict[str, Any]) -> dict[str, Any]:
    """Overrides that make the network small, and leave the rest to the stages."""
    return {name: value for name, value in tiny.items() if name not in FIRST} | {"ema_momentum": 0.5}


@pytest.fixture(scope="module")
def data(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Images to train on and images to validate on."""
    return generate_sample_dataset(tmp_path_factory.mktemp("train"), num_images=2, image_size=64, seed=1), dataset


@pytest.fixture(scope="module")
def command(data: tuple[Path, Path], small: dict[str, Any]) -> Command:
    changes = [f"{name}={json.dumps(value)}" for name, value in small.items()]
    words = ["--row", "tiny", "--dataset_dir", str(data[0]), "--val_dataset_dir", str(data[1]), "--override", *changes]
    return lambda output_dir: [*words, "--output_dir", str(output_dir)]


@pytest.fixture(scope="module")
def whole(command: Command, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A release without any interruption: its folder and what it printed."""
    output_dir, printed = tmp_path_factory.mktemp("release"), io.StringIO()
    with contextlib.redirect_stdout(printed):
        main(command(output_dir))
    return output_dir / "tiny", printed.getvalue()


@pytest.fixture
def finished(whole: tuple[Path, str], tmp_path: Path) -> Iterator[Path]:
    """Its folder, to change."""
    folder, kept = whole[0], tmp_path / "kept"
    shutil.copytree(folder, kept)
    yield folder
    shutil.rmtree(folder)
    shutil.copytree(kept, folder)


@pytest.fixture
def again(data: tuple[Path, Path], small: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Again:
    """Release once more where nothing is left to train."""
    monkeypatch.setattr(TrainingRun, "_run", lambda *_, **__: pytest.fail("a stage was repeated"))

    def call(folder: Path, seed: int = 0, **changes: Any) -> Any:
        return release("tiny", *data, folder.parent, seed, {**small, **changes})

    return call


def contents(folder: Path, *names: str) -> list[bytes]:
    return [(folder / name).read_bytes() for name in names]


def test_weights(whole: tuple[Path, str], small: dict[str, Any]) -> None:
    folder = whole[0]
    state = torch.load(folder / "model.pt")
    assert {value.dtype for value in state.values()} == {torch.float16}
    served = Bundle({**small, **SECOND})
    network = served.network(folder / "model.pt")
    best = torch.load(folder / "second" / "model.pt")
    assert all(torch.equal(value, best[name].half().float()) for name, value in network.state_dict().items())
    with pytest.raises(CheckpointError, match=r"image_scale=0\.5, expected 1\.0"):
        served.with_overrides({"image_scale": 1.0}).network(folder / "model.pt")


def test_a_stage_starts_from_the_averaged_weights_of_the_former(whole: tuple[Path, str], small: dict[str, Any]) -> None:
    folder = whole[0]
    first, second = (torch.load(folder / stage / "model.pt") for stage in ("first", "second"))
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, msg=name)
    fresh = Bundle(small).network().state_dict()
    assert max(first[name].abs().max() for name, value in fresh.items() if not value.any()) > 0.01, "it learnt nothing"


def test_split_has_no_folders(whole: tuple[Path, str]) -> None:
    folder = whole[0]
    split, of_run = (json.loads(path.read_text()) for path in (folder / "split.json", folder / "second/split.json"))
    names = {"name": "sample_000", "image": "sample_000.png", "label": "sample_000.png"}
    assert split["training"][0] == split["validation"][0] == names
    assert (len(split["training"]), len(split["validation"])) == (2, 3)
    assert split["training_sha256"] == of_run["training_sha256"]
    assert (folder / "model.json").read_bytes() == (folder / "second" / "model.json").read_bytes()


def test_printed(whole: tuple[Path, str], data: tuple[Path, Path], small: dict[str, Any]) -> None:
    folder, printed = whole
    assert re.search("^stage +epochs +best epoch +image scale +validation Dice +minutes$", printed, re.MULTILINE)
    for number, (stage, epochs, scale) in enumerate((("first", 1, 1.0), ("second", 3, 0.5)), 1):
        assert f"Stage {number} of 2, {stage}: {epochs} epochs, its log is {folder / stage}.log\n" in printed
        record = json.loads((folder / f"{stage}.json").read_text())
        row = rf"^{stage} +{epochs} +1 +{scale} +{record['best_metric']:.4f} +{record['seconds'] / 60:.1f}$"
        assert re.search(row, printed, re.MULTILINE)
        history = json.loads((folder / stage / "history.json").read_text())
        assert record["best_metric"] == pytest.approx(history["validation"]["value"][0])
    assert hashlib.sha256((folder / "model.pt").read_bytes()).hexdigest() in printed
    assert f"{(folder / 'model.pt').stat().st_size / 1e6:.1f} MB" in printed
    for name in PUBLISHED:
        assert f" {folder / name}\n" in printed

    start = ["python", "-m", "benchmarks.quality", "--dataset_dir", str(data[1]), "--row"]
    assert (words := shlex.split(printed.splitlines()[-1].removeprefix("Next:")))[:6] == start
    (name, root), *settings = map(override, words[6:])
    assert (name, root) == ("tiny", str(MONUSEG))
    given = dict(settings)
    # No device, no precision, nothing for training alone, nothing that the bundle says as well.
    networks = {name: value for name, value in small.items() if name.startswith("network_def#")}
    assert given == {**networks, "image_scale": 0.5, "window_size": 32, "ckpt": str(folder / "model.pt")}
    assert QualityRow(name, root, {**given, "device": "cpu"}).split == folder / "split.json"


def test_next_command_names_further_configs(tmp_path: Path) -> None:
    run = TrainingRun(Bundle({"max_epochs": 2}, ["unet"]), "TRAIN", "THE IMAGES", 0, tmp_path)
    words = shlex.split(module._next_command("U-Net", run, Path("model.pt")))
    assert words[4:] == ["THE IMAGES", "--row", f"U-Net={MONUSEG}", "ckpt=model.pt", "config=unet"]


@pytest.mark.end_to_end
def test_killed_release(command: Command, whole: tuple[Path, str], tmp_path: Path) -> None:
    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", DRIVER, *command(tmp_path)], cwd=ROOT, start_new_session=True)

    def wait_for(process: subprocess.Popen[bytes], seen: Callable[[], bool]) -> None:
        while not seen():
            assert process.poll() is None
            time.sleep(0.01)

    def commands(stage: str) -> list[str]:
        return re.findall("^.* -m monai.bundle run training .*$", (folder / f"{stage}.log").read_text(), re.MULTILINE)

    folder = tmp_path / "tiny"
    checkpoint = folder / "second" / "checkpoint.pt"
    folder.mkdir()
    for name in ("first.json", "first.log"):
        shutil.copy(whole[0] / name, folder)
    shutil.copytree(whole[0] / "first", folder / "first")
    record = (folder / "first.json").read_bytes()
    with start() as process:  # all of it, in the second stage
        wait_for(process, checkpoint.is_file)
        os.killpg(process.pid, signal.SIGKILL)
    assert not [name for name in PUBLISHED if (folder / name).exists()]
    # What only this checkpoint has: a resumed training keeps it, as it learns nothing.
    state = torch.load(checkpoint)
    assert 1 <= state["trainer"]["epoch"] < SECOND["max_epochs"]
    name = next(iter(state["network"]))
    state["network"][name] += 1
    state["evaluator"]["best_metric"] = 2.0
    torch.save(state, checkpoint)
    with start() as process:  # without the training, which goes on alone
        wait_for(process, lambda: len(commands("second")) == 2)
        process.kill()
    main(command(tmp_path))
    assert (folder / "first.json").read_bytes() == record
    assert len(commands("first")) == 1
    assert [re.findall(r"--resume=(\w+)", words) for words in commands("second")] == [["False"], ["True"]]
    history = json.loads((folder / "second" / "history.json").read_text())
    assert history["loss"]["iteration"] == history["validation"]["epoch"] == [1, 2, 3]
    assert torch.equal(torch.load(checkpoint)["network"][name], state["network"][name])
    found = json.loads((folder / "second.json").read_text())
    assert (found["best_epoch"], found["best_metric"]) == (1, 2.0)
    assert contents(folder, *PUBLISHED) == contents(whole[0], *PUBLISHED)


@pytest.mark.parametrize("left", ["second", "second.json"])
def test_stage_from_other_weights_is_refused(finished: Path, again: Again, left: str) -> None:
    path = finished / "first" / "model.pt"  # as if trained again
    state = torch.load(path)
    next(iter(state.values())).add_(1)
    torch.save(state, path)
    if left == "second.json":
        shutil.rmtree(finished / "second")
    expected = contents(finished, *PUBLISHED, "second.json", "second.start.pt")
    message = (
        r"tiny/second: was trained from other weights than the present ones of .*tiny/first, .* it and second\.json"
    )
    for _ in range(2):
        with pytest.raises(DatasetError, match=message):
            again(finished)
    assert contents(finished, *PUBLISHED, "second.json", "second.start.pt") == expected

    shutil.rmtree(finished / "second", ignore_errors=True)
    (finished / "second.json").unlink()
    with pytest.raises(pytest.fail.Exception, match="a stage was repeated"):
        again(finished)
    start = torch.load(finished / "second.start.pt")
    assert all(torch.equal(start[name], value) for name, value in state.items())


@pytest.mark.parametrize("removed", [[], ["model.pt"], ["model.pt", "model.json"], PUBLISHED, ["second.start.pt"]])
def test_killed_while_publishing(finished: Path, again: Again, removed: list[str]) -> None:
    names = [*PUBLISHED, "first.json", "second.json"]
    expected = contents(finished, *names)
    for name in removed:
        (finished / name).unlink()
    assert [stage["name"] for stage in again(finished)["stages"]] == ["first", "second"]
    assert contents(finished, *names) == expected


@pytest.mark.parametrize("broken", ["write_split_file", "shutil.copyfile", "torch.save"])
def test_weights_are_never_without_their_settings(
    finished: Path, again: Again, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    expected = contents(finished, *PUBLISHED)
    (finished / "model.json").write_text("of other weights")
    with monkeypatch.context() as patch:
        patch.setattr(module, "_hand_over", lambda *_: None)
        patch.setattr(f"benchmarks.release.{broken}", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            again(finished)
    assert not (finished / "model.pt").exists()
    again(finished)
    assert contents(finished, *PUBLISHED) == expected


@pytest.mark.parametrize("changes", [{"crop_size": 16}, {"seed": 1}])
def test_other_options_are_refused(finished: Path, again: Again, changes: dict[str, Any]) -> None:
    with pytest.raises(DatasetError, match="first: was trained with other settings"):
        again(finished, **changes)
    assert (finished / "model.pt").exists()


def test_another_recipe_is_refused_before_anything_is_trained(
    finished: Path, again: Again, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(finished / "first")
    (finished / "first.json").unlink()
    changed = Stage("second", {**SECOND, "crop_size": 16})
    monkeypatch.setitem(RECIPES, "tiny", Recipe(MONUSEG, (Stage("first", FIRST), changed)))
    with pytest.raises(DatasetError, match="second: was trained with other settings"):
        again(finished)


def test_unusable_weights(finished: Path, again: Again) -> None:
    expected, path = contents(finished, *PUBLISHED), finished / "second" / "model.pt"
    state = torch.load(path)
    name = next(iter(state))
    state[name] = state[name] + 1e5
    torch.save(state, path)
    with pytest.raises(CheckpointError, match=f"half precision has not, in {name}"):
        again(finished)
    path.unlink()
    with pytest.raises(CheckpointError, match=r"second/model\.pt does not exist"):
        again(finished)
    (finished / "first" / "model.pt").write_bytes(b"half")
    with pytest.raises(CheckpointError, match=r"first/model\.pt is damaged"):
        again(finished)
    assert contents(finished, *PUBLISHED) == expected


def test_what_the_recipe_sets(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="initial_weights, seed: set by the recipe, expected no override"):
        release("tiny", "TRAIN", "VALIDATION", tmp_path, overrides={"seed": 1, "initial_weights": "model.pt"})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--override", "run_dir=1"], "error: run_dir: set by the recipe, expected no override."),
        (["--override", "nonsense=1"], "Unknown override nonsense"),
        (["--dataset_dir", "/nowhere"], "DatasetError: /nowhere"),
        (["--row", "V-Net"], "invalid choice: 'V-Net'"),
        (["--seed", "-1"], "'-1' is not a whole number"),
    ],
)
def test_bad_options(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    with pytest.raises(SystemExit):
        main([*command(tmp_path), *words])
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_failing_training(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TrainingRun, "train", Mock(side_effect=TrainingError("see its log")))
    with pytest.raises(SystemExit, match="1"):
        main(command(tmp_path))
    assert "see its log\n" in capsys.readouterr().err


def test_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    printed = capsys.readouterr().out
    assert "Run it again to continue" in printed
    assert "--override amp=false" in printed
    assert "python -m benchmarks.release --row SegDiff --dataset_dir TRAIN" in printed
