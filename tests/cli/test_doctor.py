# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import hashlib
import importlib
import os
import platform
from collections.abc import Iterator
from importlib.metadata import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

from monai_segdiff.cli import app, self_test
from monai_segdiff.cli.doctor import EXTRAS
from monai_segdiff.cli.self_test import Check


@pytest.fixture(autouse=True)
def _small_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(self_test, "IMAGE_SIZE", 64)
    monkeypatch.delenv("MONAI_SEGDIFF_BUNDLE", raising=False)


def run(*words: Any, environment: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(app, ["doctor", *map(str, words)], env=environment)


def test_without_a_bundle_a_tiny_network_is_tested() -> None:
    result = run("--device", "cpu")
    assert result.exit_code == 0, result.output
    assert f"torch           {torch.__version__}" in result.stdout
    assert f"Python          {platform.python_version()}" in result.stdout
    assert f"{os.cpu_count()} cores; PyTorch uses {torch.get_num_threads()} threads" in result.stdout
    assert "none given: --bundle FOLDER, or the environment variable MONAI_SEGDIFF_BUNDLE" in result.stdout
    assert "Self-test of a tiny network on cpu" in result.stdout
    assert "OK      same bits from two threads" in result.stdout
    assert "FAILED" not in result.stdout
    assert result.stdout.endswith("All is well.\n")
    assert "\x1b" not in result.output  # no colours in a log


@pytest.mark.parametrize("by_variable", [False, True])
def test_a_bundle_is_described_and_tested(by_variable: bool, picture_bundle: Path) -> None:
    environment = {"MONAI_SEGDIFF_BUNDLE": str(picture_bundle)} if by_variable else None
    result = run(*([] if by_variable else ["--bundle", picture_bundle]), environment=environment)
    assert result.exit_code == 0, result.output
    assert "nuclei 0.1.0: Nuclei segmentation by diffusion (SegDiff)" in result.stdout
    assert "segments nuclei in 2 dimensions" in result.stdout
    weights = (picture_bundle / "models" / "model.pt").read_bytes()
    assert f"weights SHA-256 {hashlib.sha256(weights).hexdigest()}" in result.stdout
    assert "Self-test of the bundle on cpu" in result.stdout
    assert "note    Dice of nuclei 0." in result.stdout


def test_a_bundle_that_does_not_open_fails_and_the_rest_is_tested(tmp_path: Path) -> None:
    result = run("--bundle", tmp_path / "nowhere")
    assert result.exit_code == 1
    assert f"FAILED  {tmp_path / 'nowhere'} (BundleError: " in result.stdout
    assert "OK      same bits again" in result.stdout
    assert result.stdout.endswith("Checks that FAILED: 1\n")


def failing(*arguments: Any) -> Iterator[Check]:
    yield Check("first", True)
    yield Check("second", False, "as it should not be")
    yield Check("third", None)
    raise RuntimeError("out of memory\nTraceback")


def test_what_fails_is_shown_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(self_test, "self_test", failing)
    result = run()
    assert result.exit_code == 1
    words = ("OK ", "FAILED ", "note ", "Checks ")
    assert [line.strip() for line in result.stdout.splitlines() if line.strip().startswith(words)] == [
        "OK      first",
        "FAILED  second (as it should not be)",
        "note    third",
        "FAILED  to its end (RuntimeError: out of memory)",
        "Checks that FAILED: 2",
    ]


def test_a_device_that_is_not_there() -> None:
    result = run("--device", "gpu")
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: --device is 'gpu'; expected auto, cpu, cuda, cuda:N or mps")
    assert result.stdout == ""


def test_gpus_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    properties = SimpleNamespace(name="Some GPU", total_memory=80 * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    result = run("--device", "cpu")
    assert [line.split() for line in result.stdout.splitlines() if "cuda" in line] == [
        [f"cuda:{index}", "Some", "GPU,", "80", "GiB"] for index in (0, 1)
    ]


REQUIRES = ["torch>=2.8", "one>=0.27; extra == 'dicom'", 'two-b; extra == "dicom"', "three; extra == 'export'"]


@pytest.mark.parametrize(
    ("installed", "expected"),
    [
        ({"one": "1.0", "two-b": "2.0"}, "one 1.0, two-b 2.0"),
        ({"one": "1.0"}, "lacks two-b: pip install 'monai_segdiff[dicom]'"),
        ({}, "lacks one, two-b: pip install 'monai_segdiff[dicom]'"),
    ],
)
def test_extras(installed: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("monai_segdiff.cli.doctor")  # the package has the function by this name

    def version(name: str) -> str:
        if name not in installed:
            raise module.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(module, "requires", lambda name: REQUIRES)
    monkeypatch.setattr(module, "version", version)
    assert module._extra("dicom") == expected


@pytest.mark.parametrize("lost", [("scipy",), ("monai_segdiff", "typer")])
def test_packages_without_metadata_fail_and_the_rest_is_tested(
    lost: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module("monai_segdiff.cli.doctor")

    def lookup(find: Any) -> Any:
        def found(name: str) -> Any:
            if name in lost:
                raise module.PackageNotFoundError(name)
            return find(name)

        return found

    for name in ("version", "requires"):
        monkeypatch.setattr(module, name, lookup(getattr(module, name)))
    monkeypatch.setattr(self_test, "self_test", lambda *arguments: iter([Check("first", True)]))
    result = run("--device", "cpu")
    assert result.exit_code == 1, result.output
    failed = [line for line in result.stdout.splitlines() if line.strip().startswith("FAILED")]
    assert failed == [f"  FAILED  {name} (no metadata: install it again)" for name in lost]
    assert result.stdout.endswith(f"OK      first\n{result.stdout.splitlines()[-2]}\nChecks that FAILED: {len(lost)}\n")
    assert f"torch           {torch.__version__}" in result.stdout
    assert ("unknown: monai_segdiff has no metadata" in result.stdout) == ("monai_segdiff" in lost)


def test_an_empty_path_is_not_this_folder(picture_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(picture_bundle)
    result = run("--bundle", "")
    assert result.exit_code == 2
    assert "Invalid value for '--bundle'" in result.stderr
    assert result.stdout == ""


def test_the_extras_are_those_of_the_package() -> None:
    assert set(EXTRAS) <= set(metadata("monai_segdiff").get_all("Provides-Extra"))
