# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import subprocess
import sys
import warnings
from importlib.metadata import entry_points, version
from pathlib import Path

import pytest
from monai.transforms import LoadImage
from typer.testing import CliRunner

import monai_segdiff
from monai_segdiff.cli import app, main


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        (["--version"], 0, f"monai-segdiff {version('monai_segdiff')}\n"),
        (["--help"], 0, "predict  Segment images with a bundle and write their masks."),
        (["-h"], 0, "doctor   Show what is installed, and test it on sample data."),
        (["predict", "--help"], 0, "--max-batch N"),
        (["doctor", "-h"], 0, "MONAI_SEGDIFF_BUNDLE]"),
        ([], 2, "Commands:"),
        (["segment"], 2, "No such command 'segment'"),
        (["predict", "in"], 2, "Missing argument 'OUT'"),
    ],
)
def test_help_and_wrong_commands(words: list[str], status: int, text: str) -> None:
    result = CliRunner().invoke(app, words)
    assert result.exit_code == status
    assert text in result.output
    assert all(len(line) <= 80 for line in result.output.splitlines())


def test_the_command_is_installed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (script,) = entry_points(group="console_scripts", name="monai-segdiff")
    assert script.load() is main
    monkeypatch.setattr(sys, "argv", ["anything.py", "segment"])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    assert capsys.readouterr().err.startswith("Usage: monai-segdiff [OPTIONS]")


def test_nothing_is_said_of_decoders_that_are_not_used(caplog: pytest.LogCaptureFixture) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CliRunner().invoke(app, ["doctor", "--device", "gpu"])
        LoadImage()  # warns and logs otherwise
    assert "nvImageCodec" not in caplog.text


def test_the_command_line_itself_imports_nothing_slow() -> None:
    """The package around it does; here it has an empty one."""
    package = Path(monai_segdiff.__file__).parent
    code = (
        "import sys, types; package = types.ModuleType('monai_segdiff'); sys.modules['monai_segdiff'] = package; "
        f"package.__path__ = [{str(package)!r}]; import monai_segdiff.cli; "
        "print({'torch', 'monai', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("set()\n", "")
