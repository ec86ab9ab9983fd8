# SPDX-License-Identifier: Apache-2.0
"""Command ``monai-segdiff doctor``."""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .given_path import given_path
from .predict import BUNDLE_VARIABLE
from .wrong_usage import wrong_usage

if TYPE_CHECKING:
    from ..predictor import SegDiffPredictor
    from .self_test import Check

__all__ = ["doctor"]

PACKAGES = (
    *("monai_segdiff", "torch", "monai", "numpy", "pytorch-ignite", "scikit-image", "scipy", "pillow", "nibabel"),
    *("matplotlib", "typer"),
)
EXTRAS = ("dicom", "export", "tracking")


def doctor(
    bundle: Annotated[
        Path | None,
        typer.Option(
            help="Folder of a bundle to test. It is code and will be run. Without one a tiny network is tested.",
            envvar=BUNDLE_VARIABLE,
            show_envvar=True,
            metavar="FOLDER",
            parser=given_path,
        ),
    ] = None,
    device: Annotated[
        str, typer.Option(metavar="NAME", help="cpu, cuda, cuda:1, ...; auto: the first GPU, or else cpu.")
    ] = "auto",
) -> None:
    """Show what is installed, and test it on sample data.

    The sample is generated, and the test takes less than a minute.

    Exit status: 0 all is well, 1 a check failed, 2 wrong usage.
    """
    from .check_device import check_device
    from .self_test import Check, self_test

    with wrong_usage():
        device = check_device(device)
    versions = {name: _version(name) for name in PACKAGES}
    _show("Versions", {"Python": platform.python_version(), **{k: v for k, v in versions.items() if v is not None}})
    failed = sum(
        _report(Check(name, False, "no metadata: install it again")) for name in PACKAGES if versions[name] is None
    )
    _show("Machine", {"system": platform.platform(), **_processors()})
    _show("Extras", {name: _extra(name) for name in EXTRAS})
    typer.echo("Bundle")
    predictor, unopened = _open(bundle, device)
    failed += unopened
    typer.echo(f"Self-test of {'the bundle' if predictor else 'a tiny network'} on {device}")
    start = time.perf_counter()
    try:
        for check in self_test(device, predictor):
            failed += _report(check)
    except Exception as error:  # whatever is wrong with an installation shows here
        failed += _report(Check("to its end", False, f"{type(error).__name__}: {error}"))
    typer.echo(f"  took {time.perf_counter() - start:.1f} s")
    typer.echo(f"Checks that FAILED: {failed}" if failed else "All is well.")
    raise typer.Exit(1 if failed else 0)


def _show(title: str, lines: Mapping[str, str]) -> None:
    typer.echo(title)
    for name, text in lines.items():
        typer.echo(f"  {name:<16}{text}")


def _report(check: Check) -> int:
    """Show a check; return how many have failed."""
    word, color = {True: ("OK", "green"), False: ("FAILED", "red"), None: ("note", None)}[check.passed]
    line, _, _ = check.detail.partition("\n")
    detail = f" ({line})" if line else ""
    typer.echo(f"  {typer.style(f'{word:<8}', fg=color)}{check.name}{detail}")  # without colours in a log
    return int(check.passed is False)


def _processors() -> dict[str, str]:
    import torch

    found = {"cpu": f"{os.cpu_count()} cores; PyTorch uses {torch.get_num_threads()} threads"}
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        found[f"cuda:{index}"] = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    return found if len(found) > 1 else {**found, "cuda": "none that this PyTorch can use"}


def _extra(extra: str) -> str:
    """Say which packages of an extra of this package are installed."""
    try:
        required = requires("monai_segdiff") or []
    except PackageNotFoundError:
        return "unknown: monai_segdiff has no metadata"
    names = [
        re.split(r"[^\w.-]", line, maxsplit=1)[0]
        for line in required
        if re.search(rf"""extra == ['"]{extra}['"]""", line)
    ]
    versions = {name: _version(name) for name in names}
    missing = [name for name in names if versions[name] is None]
    if missing:
        return f"lacks {', '.join(missing)}: pip install 'monai_segdiff[{extra}]'"
    return ", ".join(f"{name} {versions[name]}" for name in names)


def _version(name: str) -> str | None:
    """The version of an installed package, None without metadata."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _open(bundle: Path | None, device: str) -> tuple[SegDiffPredictor | None, int]:
    """Open the bundle, if there is one, and show what it is; return it and how many checks have failed."""
    from ..predictor import SegDiffPredictor
    from .self_test import Check

    if bundle is None:
        typer.echo(f"  none given: --bundle FOLDER, or the environment variable {BUNDLE_VARIABLE}")
        return None, 0
    try:
        predictor = SegDiffPredictor.from_bundle(bundle, device)
    except Exception as error:  # a bundle is code
        return None, _report(Check(str(bundle), False, f"{type(error).__name__}: {error}"))
    opened = predictor.bundle
    typer.echo(f"  {opened.name} {opened.version}: {opened.metadata.get('name', '')}")
    typer.echo(f"  segments {', '.join(opened.labels.values())} in {opened.network.spatial_dims} dimensions")
    typer.echo(f"  weights SHA-256 {opened.weights_sha256}")
    return predictor, 0
