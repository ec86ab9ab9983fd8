# SPDX-License-Identifier: Apache-2.0
"""What examples/monailabel/serve.sh answers before it does anything, and what it does, with a Python that is none."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SERVE = ROOT / "examples" / "monailabel" / "serve.sh"


def serve(folder: Path, *arguments: str, script: Path = SERVE, **more: str) -> subprocess.CompletedProcess[str]:
    """Run the script where a home folder would be made if it went on."""
    variables = {**os.environ, "HOME": str(folder / "home"), "XDG_DATA_HOME": "", **more}
    variables.pop("MONAILABEL_ENV", None)
    return subprocess.run(["bash", str(script), *arguments], env=variables, cwd=folder, capture_output=True, text=True)


def test_help(tmp_path: Path) -> None:
    found = serve(tmp_path, "--help")
    assert found.returncode == 0
    assert found.stdout.startswith("Usage: serve.sh STUDIES")
    for option in ("--bundle", "--app", "--port", "--env", "--work", "--python", "--install-only"):
        assert option in found.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no folder of images; see --help."),
        (["nowhere"], "nowhere is not a folder; expected one with png, tif, jpg or nii.gz files."),
        (["images", "more"], "two folders of images, images and more; expected one."),
        (["images", "--ports", "1"], "unknown option --ports; see --help."),
        (["images", "--port"], "--port needs a value; see --help."),
        (["images", "--port", "80a"], "--port is 80a, expected 1 to 65535."),
        (["images", "--port", "70000"], "--port is 70000, expected 1 to 65535."),
        (["images", "--app", "radiology"], "--app is radiology, expected bundle or pathology."),
        (["images", "--bundle", "nuclei"], f"there is no bundle nuclei in {ROOT}/bundles, nor a folder."),
        (
            ["images", "--bundle", "empty"],
            "empty has no weights, models/model.pt; its docs/README.md says how to",
        ),
        (["images", "--bundle", "hippocampus", "--app", "pathology"], "--app pathology is for the bundle monuseg"),
    ],
)
def test_what_is_wrong_is_said_first(tmp_path: Path, arguments: list[str], message: str) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "empty" / "configs").mkdir(parents=True)
    (tmp_path / "empty" / "configs" / "inference.json").write_text("{}")
    found = serve(tmp_path, *arguments)
    assert found.returncode == 2
    assert found.stderr.startswith("serve.sh: ")
    assert message in found.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "images"], "nothing was made"


# The whole script, in a small checkout and with a Python that writes down how it was called.

PYTHON = """#!/bin/sh
echo "$*" >>"$CALLS"
[ "$1 $2" != "-m venv" ] || { mkdir -p "$3/bin" && cp "$0" "$3/bin/python"; }
[ "$1 $2" != "-m pip" ] || [ -z "${PIP_FAILS:-}" ]
"""
# A disk that is slow enough to be killed in the middle of the weights.
KILLED_COPY = """#!/bin/sh
case "$1" in
    *.pt) head -c 3 "$1" >"$2" && kill -9 "$PPID" ;;
    *) exec /bin/cp "$@" ;;
esac
"""


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def make_bundle(folder: Path, weights: str) -> Path:
    """As small as the script accepts one: without ``docs``."""
    for part, content in (("configs/inference.json", "{}"), ("models/model.json", "{}"), ("models/model.pt", weights)):
        (folder / part).parent.mkdir(parents=True, exist_ok=True)
        (folder / part).write_text(content)
    return folder


class Desk:
    """A checkout with its one bundle, a folder of images, and a working folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.calls_file = folder, folder / "calls.txt"
        self.python = executable(folder / "bin" / "python", PYTHON)
        (folder / "images").mkdir()
        self.checkout = self.add_checkout("checkout")
        self.served = folder / "work" / "bundle" / "model" / "monuseg"

    def add_checkout(self, name: str) -> Path:
        checkout = self.folder / name
        shutil.copytree(SERVE.parent, checkout / "examples" / "monailabel")
        shutil.copy(ROOT / "setup.py", checkout)
        make_bundle(checkout / "bundles" / "monuseg", "weights of the repository")
        return checkout

    def serve(self, *options: str, checkout: Path | None = None, **more: str) -> subprocess.CompletedProcess[str]:
        script = (checkout or self.checkout) / "examples" / "monailabel" / "serve.sh"
        arguments = ["images", "--work", "work", "--python", str(self.python), *options]
        return serve(self.folder, *arguments, script=script, CALLS=str(self.calls_file), **more)

    def calls(self, what: str) -> list[str]:
        """Of the last run, those that name something."""
        lines = self.calls_file.read_text().splitlines()
        self.calls_file.write_text("")
        return [line for line in lines if what in line]

    def weights(self) -> str:
        return (self.served / "models" / "model.pt").read_text()


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_the_server_starts_with_a_copy_of_the_bundle(desk: Desk) -> None:
    found = desk.serve("--port", "8123")
    assert (found.returncode, found.stderr) == (0, "")
    (call,) = desk.calls("start_server")
    assert f"--app {desk.folder}/work/bundle --studies {desk.folder}/images --host 127.0.0.1 --port 8123" in call
    assert "--conf models monuseg" in call
    assert desk.weights() == "weights of the repository"
    assert {path.name for path in (desk.served / "models").iterdir()} == {"model.json", "model.pt"}
    assert (desk.folder / "work" / "bundle" / "main.py").is_file()


def test_configs_follow_the_bundle_and_weights_stay(desk: Desk) -> None:
    desk.serve()
    (desk.served / "models" / "model.pt").write_text("weights of a round")
    source = desk.checkout / "bundles" / "monuseg"
    (source / "configs" / "inference.json").write_text('{"seed": 1}')
    (source / "docs").mkdir()
    (source / "docs" / "README.md").write_text("docs")
    assert desk.serve().returncode == 0
    assert desk.weights() == "weights of a round"
    assert json.loads((desk.served / "configs" / "inference.json").read_text()) == {"seed": 1}
    assert (desk.served / "docs" / "README.md").read_text() == "docs"


def test_another_bundle_of_the_same_name_is_not_mixed_with_the_first(desk: Desk) -> None:
    mine = make_bundle(desk.folder / "mine" / "monuseg", "my weights")
    (mine / "configs" / "inference.json").write_text('{"mine": true}')
    desk.serve()
    found = desk.serve("--bundle", "mine/monuseg")
    assert found.returncode == 2
    first = desk.checkout / "bundles" / "monuseg"
    assert f"bundle/model/monuseg was copied from {first}, not from {mine}" in found.stderr
    assert "--work" in found.stderr
    assert json.loads((desk.served / "configs" / "inference.json").read_text()) == {}
    # What the message proposes.
    assert desk.serve("--bundle", "mine/monuseg", "--work", "other", "--env", "work/env").returncode == 0
    assert (desk.folder / "other" / "bundle" / "model" / "monuseg" / "models" / "model.pt").read_text() == "my weights"
    (desk.served / "source.txt").write_text(f"{mine}\n")
    assert desk.serve("--bundle", "mine/monuseg").returncode == 0


def test_a_bundle_is_the_same_by_any_path(desk: Desk) -> None:
    make_bundle(desk.folder / "mine" / "monuseg", "my weights")
    (desk.folder / "link").symlink_to(desk.folder / "mine")
    for path in ("mine/monuseg", "link/monuseg", f"{desk.folder}/mine/../mine/monuseg/"):
        found = desk.serve("--bundle", path)
        assert found.returncode == 0, found.stderr


def test_killed_while_the_weights_are_copied(desk: Desk) -> None:
    desk.serve("--install-only")
    cp = executable(desk.folder / "slow" / "cp", KILLED_COPY)
    found = desk.serve(PATH=f"{cp.parent}:{os.environ['PATH']}")
    assert found.returncode == -9
    assert desk.served.is_dir()
    assert not (desk.served / "models" / "model.pt").exists()
    assert desk.serve().returncode == 0
    assert desk.weights() == "weights of the repository"
    assert {path.name for path in (desk.served / "models").iterdir()} == {"model.json", "model.pt"}


def test_the_environment_is_made_once_for_each_checkout(desk: Desk) -> None:
    other = desk.add_checkout("moved")
    for checkout, installed in ((desk.checkout, True), (desk.checkout, False), (other, True), (other, False)):
        assert desk.serve("--install-only", checkout=checkout).returncode == 0
        assert [call.split()[-2:] for call in desk.calls("pip install")] == [["-e", str(checkout)]] * installed
    # Interrupted, it is nobody's.
    assert desk.serve("--install-only", PIP_FAILS="1").returncode != 0
    desk.calls("")
    assert desk.serve("--install-only", checkout=other).returncode == 0
    assert len(desk.calls("pip install")) == 1
