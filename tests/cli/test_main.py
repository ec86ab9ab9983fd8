# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import logging
import subprocess
import sys
import warnings
from importlib.metadata import entry_points, version
from pathlib import Path

import pytest
from monai.transforms import LoadImage
from typer.testing import CliRunner

import monai_segdiff
from monai_segdiff import cli
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


def test_ctrl_c_outside_of_what_typer_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(**settings: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "app", interrupted)
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 130


def test_nothing_is_said_of_decoders_that_are_not_used(
    picture_bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("monai.data.nvimgcodec_pydicom_plugin"), "level", logging.NOTSET)
    words = ["predict", str(tmp_path), str(tmp_path / "out"), "--bundle", str(picture_bundle)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = CliRunner().invoke(app, words)  # opens the bundle, whose LoadImaged warns and logs otherwise
        LoadImage()
    assert result.exit_code == 2
    assert result.stderr == f"Error: {tmp_path}: holds no image; expected files with .tif, .tiff, .png, .jpg, .jpeg.\n"
    assert "nvImageCodec" not in caplog.text


def run_light(code: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run code after an import of the command line alone, in an empty package: the real one imports what is slow."""
    package = Path(monai_segdiff.__file__).parent
    code = (
        "import sys, types; package = types.ModuleType('monai_segdiff'); sys.modules['monai_segdiff'] = package; "
        f"package.__path__ = [{str(package)!r}]; import monai_segdiff.cli; {code}"
    )
    return subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=60)


def test_the_command_line_itself_imports_nothing_slow() -> None:
    done = run_light("print({'torch', 'monai', 'numpy'} & set(sys.modules))")
    assert (done.stdout, done.stderr) == ("set()\n", "")


def test_a_signal_at_the_exit_does_not_spoil_the_status() -> None:
    late = "import atexit, os, signal; atexit.register(os.kill, os.getpid(), signal.SIGINT); monai_segdiff.cli.main()"
    done = run_light(late, "--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("monai-segdiff ")
