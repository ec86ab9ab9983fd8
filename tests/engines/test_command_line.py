# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import sys
from pathlib import Path

import monai.bundle
import pytest

from monai_segdiff.engines import check_command_line, flag

PROGRAM = str(Path(monai.bundle.__file__).with_name("__main__.py"))
CONFIG = {
    "max_epochs": 3,
    "val_interval": 1,
    "network_def": {"_target_": "torch.nn.Linear", "in_features": 2, "sizes": [1, 2], "inner": {"depth": 1}},
    "train": {"handlers": [{"_target_": "X", "path": "a"}, "@other"], "trainer": {"amp": False}},
    "run": "$0",
}


@pytest.fixture(autouse=True)
def _hook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # which a good command line replaces


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    (tmp_path / "train.json").write_text(json.dumps(CONFIG))
    (tmp_path / "evaluate.json").write_text(json.dumps({"ckpt": "model.pt", "train#trainer#epochs": 2}))
    return [str(tmp_path / name) for name in ("train.json", "evaluate.json")]


def check(files: list[str], *words: str, several: bool = False) -> None:
    check_command_line([PROGRAM, "run", "training", "--config_file", str(files) if several else files[0], *words])


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--max_epochs", "5"],
        ["--max_epochs=5"],
        ["--max_epochs", "-5"],
        ["--run", "$print('--max_epoch')"],
        ["--meta_file", "m.json", "--logging_file", "l.conf", "--init_id", "start", "--final_id", "end"],
        ["--network_def#in_features", "3"],
        ["--network_def::in_features", "3"],
        ["--network_def#sizes#1", "3"],
        ["--network_def#inner#depth", "3"],
        ["--network_def#bias", "False"],  # an argument with a default
        ["--train#handlers#0#path", "b"],
        ["--train#handlers#0#interval", "2"],
        ["--train#handlers#1", "@another"],
        ["--train#trainer#amp", "True", "--val_interval", "2"],
        ["--tracking", "mlflow", "--experiment_name", "a", "--tracking_uri", "b", "--save_execute_config", "False"],
    ],
)
def test_good_command_lines(files: list[str], words: list[str]) -> None:
    check(files, *words)
    check(files, *words, several=True)


@pytest.mark.parametrize(
    ("words", "name", "hint"),
    [
        (["--max_epoch", "5"], "max_epoch", "Did you mean --max_epochs?"),
        (["--max_epoch=5"], "max_epoch", "Did you mean --max_epochs?"),
        (["--max_epochs", "5", "--val_intervall", "2"], "val_intervall", "Did you mean --val_interval?"),
        (["--meta_fil", "m.json"], "meta_fil", "Did you mean --meta_file?"),
        (["--networkdef#in_features", "3"], "networkdef#in_features", "Did you mean --network_def?"),
        (["--something_else", "5"], "something_else", ""),
        (["--ckpt", "a"], "ckpt", ""),  # in evaluate.json alone
        (["--network_def#inner#width", "3"], "network_def#inner#width", ""),
        (["--network_def#sizes#2", "3"], "network_def#sizes#2", ""),
        (["--train#handlers#2#path", "3"], "train#handlers#2#path", ""),
        (["--train#handler#0#path", "3"], "train#handler#0#path", ""),
        (["--train::trainer::ampp", "True"], "train::trainer::ampp", ""),
        (["--max_epochs#x", "True"], "max_epochs#x", ""),
        (["--max-epoch", "5"], "max_epoch", "Did you mean --max_epochs?"),
        (["-max_epoch", "5"], "max_epoch", "Did you mean --max_epochs?"),
        (["--experiment_name", "a"], "experiment_name", ""),  # without --tracking
    ],
)
def test_unknown_overrides(files: list[str], words: list[str], name: str, hint: str) -> None:
    with pytest.raises(KeyError) as caught:
        check(files, *words)
    message = caught.value.args[0]
    assert message == f"Unknown override --{name}: there is no such entry in {files[0]}." + (f" {hint}" if hint else "")


def test_several_files_are_read_together(files: list[str]) -> None:
    check(files, "--ckpt", "other.pt", "--train#trainer#epochs", "4", several=True)
    with pytest.raises(KeyError) as caught:
        check(files, "--ckp", "other.pt", several=True)
    assert caught.value.args[0] == (
        f"Unknown override --ckp: there is no such entry in {files[0]}, {files[1]}. Did you mean --ckpt?"
    )


@pytest.mark.parametrize(
    "start",
    [
        ["/home/me/train.py", "run", "--config_file", "{}"],
        [PROGRAM, "verify_metadata", "--config_file", "{}"],
        [PROGRAM, "run", "training"],
        [PROGRAM, "run", "training", "--config_file", "{}", "--args_file", "a.json"],
        [PROGRAM],
    ],
)
def test_other_programs_are_left_alone(files: list[str], start: list[str]) -> None:
    check_command_line([word.format(files[0]) for word in start] + ["--max_epoch", "5"])


def test_default_is_the_command_line_of_the_process(files: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [PROGRAM, "run", "training", "--config_file", files[0], "--max_epoch", "5"])
    with pytest.raises(KeyError, match="max_epochs"):
        check_command_line()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("true", True),
        ("False", False),
        ("TRUE", True),
        (True, True),
        (False, False),
        ("reduce-overhead", "reduce-overhead"),
    ],
)
def test_flags(given: object, expected: object) -> None:
    assert flag(given) is expected or flag(given) == expected == given
