# SPDX-License-Identifier: Apache-2.0
"""What of the MONAI Deploy application does without the SDK."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pydicom
import pytest

from monai_segdiff.exceptions import BundleError

ROOT = Path(__file__).parents[2]
EXAMPLE, BUNDLE = ROOT / "examples" / "deploy", ROOT / "bundles" / "hippocampus"
SPEC = importlib.util.spec_from_file_location("deployed_bundle", EXAMPLE / "deployed_bundle.py")
MODULE = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(MODULE)
DeployedBundle = MODULE.DeployedBundle


def copy_bundle(folder: Path) -> Path:
    for name in ("configs/metadata.json", "models/model.pt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(BUNDLE / name, folder / name)
    return folder


def test_deployed_bundle(tmp_path: Path) -> None:
    folder = copy_bundle(tmp_path / "models" / "hippocampus")
    (folder / "models" / "model.pt").write_bytes(b"weights")
    expected = hashlib.sha256(b"weights").hexdigest()
    for path in (folder, folder.parent):
        bundle = DeployedBundle(path)
        assert (bundle.path, bundle.weights_sha256) == (folder, expected)
        assert bundle.version == json.loads((folder / "configs" / "metadata.json").read_text())["version"]
        assert bundle.modality == "MR"
        assert [one.label for one in bundle.segments] == ["Anterior hippocampus", "Posterior hippocampus"]
        assert bundle.uid == f"2.25.{int(expected[:32], 16)}"
        assert pydicom.uid.UID(bundle.uid).is_valid


def edit_metadata(folder: Path, change: Callable[[dict], object]) -> None:
    file = folder / "configs" / "metadata.json"
    metadata = json.loads(file.read_text())
    change(metadata)
    file.write_text(json.dumps(metadata))


BAD_BUNDLES: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing": (shutil.rmtree, "holds 0 bundles; expected one"),
    "two": (lambda folder: copy_bundle(folder.parent / "other"), "holds 2 bundles"),
    "no weights": (lambda folder: (folder / "models" / "model.pt").unlink(), "model.pt: does not exist"),
    "no json": (lambda folder: (folder / "configs" / "metadata.json").write_text("{"), "metadata.json: cannot be used"),
    "no object": (lambda folder: (folder / "configs" / "metadata.json").write_text("[]"), "cannot be used"),
    "no version": (lambda folder: edit_metadata(folder, lambda data: data.pop("version")), "cannot be used .*version"),
    "no codes": (lambda folder: edit_metadata(folder, lambda data: data.pop("segments")), '"segments" is None'),
}


@pytest.mark.parametrize("change", BAD_BUNDLES)
def test_deployed_bundle_refuses(tmp_path: Path, change: str) -> None:
    act, message = BAD_BUNDLES[change]
    act(copy_bundle(tmp_path / "hippocampus"))
    with pytest.raises(BundleError, match=f"{tmp_path}.*{message}"):
        DeployedBundle(tmp_path)


def test_requirements_cover_the_package() -> None:
    """``--no-deps`` keeps the package's own requirements out; the file must name them."""
    listed = (EXAMPLE / "requirements.txt").read_text().replace("-", "_").lower()
    for requirement in importlib.metadata.requires("monai_segdiff"):
        if "extra ==" not in requirement:
            name = requirement.split(";")[0].rstrip("0123456789.<>=,! ").replace("-", "_").lower()
            assert f"\n{name}" in listed, name
