# SPDX-License-Identifier: Apache-2.0
"""What examples/monailabel/serve.sh answers before it does anything."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SERVE = ROOT / "examples" / "monailabel" / "serve.sh"


def serve(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the script where a home folder would be made if it went on."""
    variables = {**os.environ, "HOME": str(folder / "home"), "XDG_DATA_HOME": ""}
    variables.pop("MONAILABEL_ENV", None)
    return subprocess.run(["bash", str(SERVE), *arguments], env=variables, cwd=folder, capture_output=True, text=True)


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
