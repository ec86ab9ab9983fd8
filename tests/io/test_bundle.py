# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from monai_segdiff.exceptions import BundleError, CheckpointError
from monai_segdiff.io import bundle as bundle_module
from monai_segdiff.io.bundle import OpenedBundle

BUNDLES = Path(__file__).parents[2] / "bundles"
TRAINED = sorted(path.parents[1].name for path in BUNDLES.glob("*/models/model.pt"))


@pytest.mark.parametrize("name", TRAINED)
def test_every_bundle_with_weights_opens(name: str) -> None:
    bundle = OpenedBundle(BUNDLES / name, "cpu")
    assert bundle.name == name
    assert bundle.labels == ({1: "anterior", 2: "posterior"} if name == "hippocampus" else {1: "nuclei"})
    assert bundle.modality == ("MR" if name == "hippocampus" else "H&E")
    assert (bundle.make_instances is None) == (name == "hippocampus")
    saved = torch.load(BUNDLES / name / "models" / "model.pt", weights_only=True)
    for key, value in bundle.network.state_dict().items():
        assert torch.equal(value, saved[key].to(value.dtype)), key
    assert not any(module.training for module in bundle.network.modules())


@pytest.fixture
def copied(picture_bundle: Path, tmp_path: Path) -> Path:
    return shutil.copytree(picture_bundle, tmp_path / "copied")


def change(bundle: Path, file: str, **entries: Any) -> None:
    path = bundle / "configs" / f"{file}.json"
    config = {**json.loads(path.read_text()), **entries}
    path.write_text(json.dumps({name: value for name, value in config.items() if value is not None}))


def test_a_bundle_opens_from_anywhere(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(copied.parent)
    assert OpenedBundle("copied", "cpu").name == "copied"
    monkeypatch.chdir(copied)
    assert OpenedBundle(".", "cpu").name == "copied"


def test_inferers_are_made_once_for_each_setting(copied: Path) -> None:
    bundle = OpenedBundle(copied, "cpu")
    inferer = bundle.inferer(num_inference_steps=3, num_generations=4, seed=5, max_batch=6)
    found = (inferer.num_calls, inferer.num_generations, inferer.seed, inferer.max_batch)
    assert found == (3, 4, 5, 6)
    assert bundle.inferer(3, 4, 5, 6) is inferer
    assert bundle.inferer() is bundle.inferer()
    assert bundle.inferer().num_calls == 1


@pytest.mark.parametrize("name", ["num_inference_steps", "num_generations", "seed", "max_batch"])
@pytest.mark.parametrize("value", ["$__import__('os').mkdir('ran') or 2", "2", 2.0, 2.5, float("nan"), True, [1]])
def test_settings_are_whole_numbers_and_never_run(
    copied: Path, name: str, value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(copied)
    bundle = OpenedBundle(copied, "cpu")
    with pytest.raises(TypeError, match=f"{name} is .*; expected a whole number"):
        bundle.inferer(**{name: value})
    assert not Path("ran").exists()
    # What was refused leaves nothing behind in the cache.
    assert bundle.inferer(**{name: np.int64(2)}) is bundle.inferer(**{name: 2})
    assert type(bundle.inferer(seed=np.int64(2)).seed) is int


def test_seeds_have_32_bits(copied: Path) -> None:
    bundle = OpenedBundle(copied, "cpu")
    assert bundle.inferer(seed=2**32 - 1).seed == 2**32 - 1
    with pytest.raises(ValueError, match=r"seed is 4294967296; expected a number below 2\*\*32"):
        bundle.inferer(seed=2**32)


def test_weights_that_change_while_they_are_read(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training may publish others at any time: the hash must be of what was loaded."""
    path = copied / "models" / "model.pt"
    others = {key: value + 1 for key, value in torch.load(path, weights_only=True).items()}
    actual, loads = bundle_module.load_weights, []

    def load_and_publish(network: Any, *args: Any) -> None:
        actual(network, *args)
        loads.append(1)
        if len(loads) == 1:
            torch.save(others, path)

    monkeypatch.setattr(bundle_module, "load_weights", load_and_publish)
    bundle = OpenedBundle(copied, "cpu")
    assert len(loads) == 2
    assert bundle.weights_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert all(torch.equal(value, others[key]) for key, value in bundle.network.state_dict().items())


def test_transforms_are_not_shared(volume_bundle: Path) -> None:
    bundle = OpenedBundle(volume_bundle, "cpu")
    first, second = bundle.transforms(), bundle.transforms()
    steps = [step for steps in first for step in steps]
    others = [step for steps in second for step in steps]
    assert not {id(step) for step in steps} & {id(step) for step in others}
    # The inverse must still be that of the same copy.
    inverse = first.restore[-1]
    inverted = inverse.transform.transforms[-len(first.prepare) :]
    assert [id(step) for step in inverted] == [id(step) for step in first.prepare]


# What cannot be opened


LABELS = {"inputs": {"image": {}}, "outputs": {"pred": {"channel_def": {"first": "nuclei"}}}}


@pytest.mark.parametrize(
    ("file", "entries", "message"),
    [
        ("inference", {"restore": None}, r"inference\.json: lacks restore; expected a bundle of monai_segdiff"),
        ("inference", {"inferer": None, "make_mask": None}, "lacks inferer, make_mask"),
        ("inference", {"network": "$1 / 0"}, "copied: its entry network cannot be built: division by zero"),
        ("inference", {"num_generations": 0}, "num_generations must be at least 1, found 0"),
        ("metadata", {"version": None}, r"metadata\.json: has no usable version .*KeyError: 'version'"),
        ("metadata", {"network_data_format": {"inputs": {}, "outputs": {}}}, r"metadata\.json: has no usable"),
        ("metadata", {"network_data_format": {"inputs": [1], "outputs": {}}}, r"metadata\.json: has no usable"),
        ("metadata", {"network_data_format": "text"}, r"metadata\.json: has no usable"),
        ("metadata", {"network_data_format": LABELS}, r"metadata\.json: has no usable .*invalid literal"),
    ],
)
def test_incomplete_configs(copied: Path, file: str, entries: dict[str, Any], message: str) -> None:
    change(copied, file, **entries)
    with pytest.raises(ValueError, match=message):
        OpenedBundle(copied, "cpu")


def test_loading_must_come_first(copied: Path) -> None:
    steps = json.loads((copied / "configs" / "inference.json").read_text())["preprocessing"]["transforms"]
    change(copied, "inference", preprocessing={"_target_": "Compose", "transforms": [*steps[1:], steps[0]]})
    with pytest.raises(BundleError, match="loads between other steps"):
        OpenedBundle(copied, "cpu")


@pytest.mark.parametrize(("content", "message"), [(b"{", "cannot be read as JSON"), (b"[1]", "holds a list")])
@pytest.mark.parametrize("file", ["inference", "metadata"])
def test_damaged_configs(copied: Path, file: str, content: bytes, message: str) -> None:
    (copied / "configs" / f"{file}.json").write_bytes(content)
    with pytest.raises(BundleError, match=rf"{file}\.json: {message}"):
        OpenedBundle(copied, "cpu")


@pytest.mark.parametrize("missing", ["configs/inference.json", "configs/metadata.json"])
def test_missing_configs(copied: Path, missing: str) -> None:
    (copied / missing).unlink()
    with pytest.raises(BundleError, match=rf"{missing}: does not exist"):
        OpenedBundle(copied, "cpu")


class Malicious:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_weights_run_no_code(copied: Path, tmp_path: Path) -> None:
    with open(copied / "models" / "model.pt", "wb") as file:
        pickle.dump(Malicious(tmp_path / "ran"), file)
    with pytest.raises(CheckpointError, match="damaged or not a PyTorch checkpoint"):
        OpenedBundle(copied, "cpu")
    assert not (tmp_path / "ran").exists()


def test_weights_of_another_network(copied: Path, volume_bundle: Path) -> None:
    shutil.copy(volume_bundle / "models" / "model.pt", copied / "models" / "model.pt")
    with pytest.raises(CheckpointError, match="written for another network"):
        OpenedBundle(copied, "cpu")


def test_weights_of_other_settings(copied: Path) -> None:
    (copied / "models" / "model.json").write_text(json.dumps({"prediction_type": "epsilon"}))
    with pytest.raises(CheckpointError, match="trained with prediction_type='epsilon'"):
        OpenedBundle(copied, "cpu")
