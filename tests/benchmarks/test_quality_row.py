# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import interpolate

from benchmarks.bundle import MONUSEG, Bundle
from benchmarks.flips_inferer import FlipsInferer
from benchmarks.quality_row import QualityRow
from monai_segdiff import SegmentorInferer, TemperatureScaling, monuseg_datalist
from monai_segdiff.exceptions import BundleError, CheckpointError

Settings = dict[str, Any]


@pytest.fixture(scope="module")
def settings(tiny: Settings, weights: Path) -> Settings:
    return {**tiny, "ckpt": str(weights)}


@pytest.fixture(scope="module")
def entry(dataset: Path) -> dict[str, str]:
    return monuseg_datalist(dataset)[1]


@pytest.fixture(scope="module")
def evaluated(bundle: Bundle, dataset: Path, weights: Path) -> torch.Tensor:
    """What the bundle finds at its own size, 96."""
    return bundle.inferer()(bundle.items(dataset)[1].image[None], bundle.network(weights))[0]


def test_the_bits_of_the_evaluation(settings: Settings, entry: dict[str, str], evaluated: torch.Tensor) -> None:
    row = QualityRow("a", MONUSEG, settings)
    probability, seconds = row.segment(entry, 96)
    assert torch.equal(probability, evaluated)
    assert type(probability) is torch.Tensor
    assert seconds > 0
    assert 0.01 < (probability > 0.5).float().mean() < 0.99


@pytest.mark.parametrize(
    ("size", "how"),
    [(48, {"mode": "area"}), (60, {"mode": "area"}), (128, {"mode": "bilinear", "align_corners": False})],
)
def test_another_grid(
    settings: Settings, entry: dict[str, str], evaluated: torch.Tensor, size: int, how: Settings
) -> None:
    probability = QualityRow("a", MONUSEG, settings).segment(entry, size)[0]
    assert torch.equal(probability, interpolate(evaluated[None], (size, size), **how)[0].clamp(0, 1))


def test_temperature_and_flips(
    bundle: Bundle, settings: Settings, entry: dict[str, str], evaluated: torch.Tensor, dataset: Path, weights: Path
) -> None:
    warm = QualityRow("a", MONUSEG, {**settings, "temperature": 2.0}).segment(entry, 96)[0]
    assert torch.equal(warm, TemperatureScaling(2.0)(evaluated))
    flips = QualityRow("a", MONUSEG, {**settings, "flips": True}).segment(entry, 96)[0]
    image = bundle.items(dataset)[1].image[None]
    assert torch.equal(flips, FlipsInferer(bundle.inferer())(image, bundle.network(weights))[0])
    assert not torch.equal(flips, evaluated)


def test_the_key_belongs_to_contents(settings: Settings, tmp_path: Path) -> None:
    key = QualityRow("a", MONUSEG, settings).key
    shutil.copy(settings["ckpt"], tmp_path / "other.pt")
    moved = QualityRow("b", MONUSEG, {**settings, "ckpt": str(tmp_path / "other.pt"), "flips": "false"})
    assert moved.key == key
    root = tmp_path / "moved"
    shutil.copytree(MONUSEG / "configs", root / "configs")
    (root / "models").mkdir()
    shutil.copy(settings["ckpt"], root / "models" / "model.pt")
    # The weights of the bundle are the default.
    assert QualityRow("a", root, {name: value for name, value in settings.items() if name != "ckpt"}).key == key
    others = [
        QualityRow("a", MONUSEG, {**settings, **change}).key
        for change in ({"seed": 1}, {"flips": True}, {"num_generations": 2}, {"window_overlap": 0.5})
    ]
    config = root / "configs" / "evaluate.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "seed": 0, "unused": 1}))
    others.append(QualityRow("a", root, settings).key)
    state = torch.load(settings["ckpt"])
    torch.save({name: value + 1 for name, value in state.items()}, tmp_path / "other.pt")
    others.append(QualityRow("a", MONUSEG, {**settings, "ckpt": str(tmp_path / "other.pt")}).key)
    assert len({json.dumps(one) for one in [key, *others]}) == 7


def test_facts(settings: Settings, bundle: Bundle, tmp_path: Path) -> None:
    shutil.copy(settings["ckpt"], tmp_path / "model.pt")
    given = {**settings, "ckpt": str(tmp_path / "model.pt"), "num_inference_steps": 2, "seed": 5, "flips": "true"}
    row = QualityRow("a", MONUSEG, given)
    expected = {"bundle": "monuseg", "num_inference_steps": 2, "num_generations": 1, "seed": 5, "image_scale": 1.0}
    expected |= {"flips": True, "split_sha256": None, "threshold": 0.5, **row.key}
    expected["parameters"] = sum(parameter.numel() for parameter in bundle.network().parameters())
    assert row.facts.items() >= expected.items()
    assert row.facts["settings"] == {name: value for name, value in given.items() if name != "device"}
    assert row.split == tmp_path / "split.json"
    row.split.write_bytes(b"abc")
    of_abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert QualityRow("a", MONUSEG, given).facts["split_sha256"] == of_abc


def test_a_base_alone_has_its_own_parameters() -> None:
    folder = MONUSEG.with_name("monuseg_ddps")
    alone, whole = (QualityRow("a", folder, {"device": "cpu", **steps}) for steps in ({"num_inference_steps": 0}, {}))
    base = sum(parameter.numel() for parameter in whole.bundle.value("network_def").base.parameters())
    assert alone.facts["parameters"] == base < whole.facts["parameters"]
    assert alone.key != whole.key


def test_a_further_config_goes_over_the_others(entry: dict[str, str], tmp_path: Path) -> None:
    overrides = {
        **{"device": "cpu", "image_scale": 1.0, "window_size": 64},
        **{"network_def#channels": [4, 8], "network_def#strides": [2], "network_def#num_res_units": 0},
    }
    bundle = Bundle(overrides, ["unet"])
    torch.manual_seed(0)
    network = bundle.value("network").eval()
    torch.save(network.state_dict(), tmp_path / "unet.pt")
    given = {**overrides, "config": "unet", "ckpt": str(tmp_path / "unet.pt")}
    row = QualityRow("a", MONUSEG, given)
    image = bundle.value("validate#preprocessing")(dict(entry))["image"].as_tensor()[None]
    found = row.segment(entry, 96)[0]
    assert torch.equal(found, SegmentorInferer(64)(image, network)[0])
    assert not found.requires_grad
    assert row.facts.items() >= {"num_inference_steps": 0, "bundle": "monuseg"}.items()
    assert row.facts["settings"]["config"] == "unet"
    root = tmp_path / "moved"
    shutil.copytree(MONUSEG / "configs", root / "configs")
    config = root / "configs" / "unet.json"
    assert QualityRow("a", root, given).key == row.key
    config.write_text(json.dumps({**json.loads(config.read_text()), "unused": 1}))
    assert QualityRow("a", root, given).key != row.key


@pytest.mark.parametrize(
    ("folder", "change", "error", "message"),
    [
        (MONUSEG, {"config": "vnet"}, BundleError, "Row a: .*vnet.json does not exist, expected a config of a bundle"),
        (MONUSEG, {"flips": "often"}, BundleError, "Row a: flips is 'often', expected true or false"),
        (MONUSEG / "configs", {}, BundleError, "Row a: .*train.json does not exist, expected a config of a bundle"),
        (MONUSEG, {"ckpt": "none.pt"}, CheckpointError, "Row a: checkpoint .*none.pt does not exist"),
        (MONUSEG, {"num_generations": 0}, BundleError, "Row a: .*num_generations must be at least 1, found 0"),
        (MONUSEG, {"num_inference_steps": 999}, BundleError, r"must lie in 1\.\.100, found 999"),
        (MONUSEG, {"steps": 3}, KeyError, "Unknown override steps"),
        (MONUSEG, {"network_def#num_res_blocks": 2}, CheckpointError, "written for another network"),
    ],
)
def test_bad_rows(settings: Settings, folder: Path, change: Settings, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        QualityRow("a", folder, {**settings, **change})
