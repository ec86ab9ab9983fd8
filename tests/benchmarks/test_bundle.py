# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.bundle import MONUSEG, Bundle
from monai_segdiff import RespacedDDIMScheduler, RespacedDDPMScheduler, generate_sample_dataset
from monai_segdiff.exceptions import CheckpointError, DatasetError


def test_defaults_are_those_of_the_configs() -> None:
    config = json.loads((MONUSEG / "configs" / "train.json").read_text())
    bundle = Bundle({"device": "cpu"})
    inferer = bundle.inferer()
    assert inferer.scheduler.num_inference_steps == config["num_inference_steps"]
    assert inferer.num_generations == config["num_generations"]
    assert isinstance(inferer.scheduler, RespacedDDIMScheduler)
    assert inferer.scheduler.clip_sample
    assert inferer.scheduler.prediction_type == config["prediction_type"]
    assert sum(p.numel() for p in bundle.network().parameters()) == 5_766_180


def test_the_shipped_weights_load() -> None:
    network = Bundle({"device": "cpu"}).network(MONUSEG / "models" / "model.pt")
    assert not network.training
    weight = network.state_dict()["image_encoder.conv_last.weight"]
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert not weight.is_contiguous()


def test_the_published_network() -> None:
    bundle = Bundle({"device": "cpu"}, extra_configs=("paper",))
    with torch.device("meta"):
        assert bundle.config("network_def")["num_rrdb_blocks"] == 12
    assert isinstance(bundle.inferer().scheduler, RespacedDDPMScheduler)
    assert bundle.inferer().num_generations == 9


def test_changes_of_the_inferer(bundle: Bundle) -> None:
    scheduler = {"_target_": "monai_segdiff.RespacedDDPMScheduler", "prediction_type": "@prediction_type"}
    inferer = bundle.inferer(scheduler=scheduler, num_inference_steps=4, max_batch=3)
    assert isinstance(inferer.scheduler, RespacedDDPMScheduler)
    assert inferer.scheduler.prediction_type == "sample"
    assert inferer.scheduler.num_inference_steps == 4
    assert inferer.max_batch == 3
    assert bundle.inferer().scheduler.num_inference_steps == bundle.value("num_inference_steps")
    assert not bundle.inferer().amp
    assert bundle.with_overrides({"amp": True}).inferer().amp
    assert bundle.with_overrides({"amp": "False"}).inferer().amp is False


def test_overrides_are_left_as_they_were() -> None:
    whole = Bundle({"device": "cpu"}).config("network_def")
    overrides: dict[str, Any] = {"network_def": {**whole}, "network_def#patch_size": 1}
    assert Bundle(overrides).config("network_def")["patch_size"] == 1
    assert overrides["network_def"]["patch_size"] == 2


def test_random_weights_depend_on_the_seed_alone(bundle: Bundle) -> None:
    state = torch.get_rng_state()
    one, same, other = (bundle.network(seed=seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    name = "image_encoder.conv_first.weight"
    assert torch.equal(one[name], same[name])
    assert not torch.equal(one[name], other[name])


def test_items_are_prepared_as_for_validation(bundle: Bundle, dataset: Path) -> None:
    items = bundle.items(dataset)
    assert [item.name for item in items] == ["sample_000", "sample_001", "sample_002"]
    picture = np.asarray(Image.open(dataset / "images" / "sample_001.png")).astype(np.float32)
    mean, std = bundle.value("image_mean"), bundle.value("image_std")
    # MONAI's images have the width first.
    expected = ((picture - mean) / std).transpose(2, 1, 0)
    np.testing.assert_allclose(items[1].image.numpy(), expected, rtol=1e-5, atol=1e-5)
    mask = np.asarray(Image.open(dataset / "labels" / "sample_001.png")).T > 0
    assert np.array_equal(items[1].label[0].numpy(), mask)
    assert len(bundle.items(dataset, num_images=2)) == 2


def test_items_have_the_scale_of_the_bundle(bundle: Bundle, dataset: Path) -> None:
    (item,) = bundle.with_overrides({"image_scale": 0.5}).items(dataset, num_images=1)
    assert item.image.shape == (3, 48, 48)
    assert item.label.shape == (1, 48, 48)
    assert item.label.dtype == torch.bool


def test_training_images_of_any_weights_are_left_out(bundle: Bundle, dataset: Path, tmp_path: Path) -> None:
    paths = []
    for number in range(3):
        folder = tmp_path / str(number)
        folder.mkdir()
        entry = {"name": f"sample_00{number}", "image": "a.png", "label": "b.png"}
        (folder / "split.json").write_text(json.dumps({"training": [entry], "validation": [entry]}))
        paths.append(folder / "model.pt")
    assert [item.name for item in bundle.items(dataset, paths[:2])] == ["sample_002"]
    with pytest.raises(DatasetError, match="each image trained one of the networks"):
        bundle.items(dataset, paths)


def test_weights_without_split_are_mentioned(
    bundle: Bundle, dataset: Path, weights: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert len(bundle.items(dataset, [weights])) == 3
    assert "split of the training is not known" in caplog.text


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample", None])
def test_weights_say_what_they_predict(bundle: Bundle, tmp_path: Path, prediction_type: str | None) -> None:
    settings = {"prediction_type": prediction_type} if prediction_type else {}
    (tmp_path / "model.json").write_text(json.dumps(settings))
    found = bundle.for_weights(tmp_path / "model.pt")
    assert found.value("prediction_type") == (prediction_type or "sample")
    assert found.inferer().scheduler.prediction_type == (prediction_type or "sample")


def test_unreadable_settings(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text("[")
    with pytest.raises(CheckpointError, match=r"model\.json.*cannot be read"):
        bundle.for_weights(tmp_path / "model.pt")


@pytest.mark.parametrize("name", ["window", "network_def#channels#7#x", "image_scale#deep"])
def test_unknown_overrides(name: str) -> None:
    with pytest.raises(KeyError, match=f"Unknown override {name}"):
        Bundle({name: 1})


def test_other_weights_are_refused(bundle: Bundle, weights: Path) -> None:
    with pytest.raises(CheckpointError, match="another network"):
        bundle.with_overrides({"network_def#num_rrdb_blocks": 2}).network(weights)


def test_other_settings_are_refused(bundle: Bundle, weights: Path, tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(weights.read_bytes())
    (tmp_path / "model.json").write_text(json.dumps({"image_scale": 0.25}))
    with pytest.raises(CheckpointError, match=r"image_scale=0\.25"):
        bundle.network(tmp_path / "model.pt")


def test_errors_of_the_package_come_as_they_are(bundle: Bundle, tmp_path: Path) -> None:
    missing = bundle.with_overrides({"dataset_dir": str(tmp_path / "none"), "ckpt": str(tmp_path / "model.pt")})
    # One level of the configs, and two.
    for name in ("datalist_of_others", "validate#dataset"):
        with pytest.raises(DatasetError, match="this dataset folder does not exist"):
            missing.value(name)
    with pytest.raises(RuntimeError, match="nonsense"):
        bundle.with_overrides({"threshold": "$nonsense"}).value("threshold")


def test_works_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: dict[str, object]) -> None:
    monkeypatch.chdir(tmp_path)
    dataset = generate_sample_dataset("data", num_images=1, image_size=64)
    assert len(Bundle(tiny).items(dataset)) == 1
