# SPDX-License-Identifier: Apache-2.0
"""The U-Net beside SegDiff: the same configs with ``unet.json`` over them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.losses import DiceCELoss
from monai.networks.nets import UNet
from PIL import Image

from monai_segdiff import SegDiffInferer, SegmentorInferer
from monai_segdiff.exceptions import CheckpointError

TINY = {"network_def#channels": [4, 8], "network_def#strides": [2], "network_def#num_res_units": 0}


@pytest.fixture(scope="module")
def unet(bundle):
    """The bundle with a tiny U-Net."""
    return replace(bundle, tiny=TINY, sampling={"image_scale": 1.0, "window_size": 64, "device": "cpu"})


@pytest.fixture(scope="module")
def trained(unet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished run of two epochs."""
    folder = tmp_path_factory.mktemp("unet") / "run"
    unet.run("train unet", run_dir=folder)
    return folder


def test_what_differs_from_segdiff(bundle) -> None:
    """Nothing about data, augmentation, budget, validation or threshold."""
    changed = json.loads((bundle.configs / "unet.json").read_text())
    assert set(changed) == {
        *("run_dir", "learning_rate", "num_inference_steps"),
        *("model_settings", "network_def", "inferer", "prepare_batch", "training_inferer", "loss"),
    }


def test_a_run(unet, trained: Path) -> None:
    names = {path.name for path in trained.iterdir()}
    assert {"model.pt", "model.json", "checkpoint.pt", "curves.png", "history.json", "split.json"} <= names
    settings = json.loads((trained / "model.json").read_text())
    assert set(settings) == {"image_scale", "image_mean", "image_std"}
    history = json.loads((trained / "history.json").read_text())
    assert len(history["validation"]["epoch"]) == 2


def test_parts(unet, trained: Path) -> None:
    parser = ConfigParser()
    parser.read_config(unet.files("train unet"))
    parser.update({"device": "cpu"})
    network = parser.get_parsed_content("network")
    assert isinstance(network, UNet)
    assert sum(parameter.numel() for parameter in network.parameters()) == 6_495_868
    assert isinstance(parser.get_parsed_content("inferer"), SegmentorInferer)
    assert isinstance(parser.get_parsed_content("train#loss"), DiceCELoss)


def test_evaluation_scores_what_the_network_says(unet, trained: Path, tmp_path: Path) -> None:
    run = unet.run("train evaluate unet", ckpt=trained / "model.pt", output_dir=tmp_path, training_split="none")
    report = json.loads((tmp_path / "metrics.json").read_text())
    network = run.parser.get_parsed_content("network").eval()
    for item, row in zip(run.parser.get_parsed_content("validate#dataset"), report["images"], strict=True):
        with torch.no_grad():
            probability = SegmentorInferer(64)(item["image"].as_tensor()[None], network)
        found, truth = probability[0] > 0.5, item["label"].as_tensor() > 0
        assert row["tp"] == (found & truth).sum()
        assert row["fp"] == (found & ~truth).sum()
    assert report["num_inference_steps"] == 0


@pytest.mark.parametrize("image_scale", [1.0, 0.5])
def test_inference(unet, trained: Path, tmp_path: Path, image_scale: float) -> None:
    weights = tmp_path / "model.pt"  # without the settings, which name another scale
    weights.write_bytes((trained / "model.pt").read_bytes())
    options = {"dataset_dir": unet.dataset / "images", "output_dir": tmp_path / "out", "image_scale": image_scale}
    unet.run("inference unet", ckpt=weights, **options)
    mask = np.asarray(Image.open(tmp_path / "out" / "sample_000_mask.png"))
    assert mask.shape == (128, 128)
    assert set(np.unique(mask)) <= {0, 255}


def test_weights_of_the_other_network_are_refused(bundle, unet, trained: Path, tmp_path: Path, assert_said) -> None:
    for own, names, weights in (
        (unet, "train evaluate unet", bundle.weights),
        (bundle, "train evaluate", trained / "model.pt"),
    ):
        with pytest.raises(Exception) as caught:  # noqa: PT011
            own.run(names, ckpt=weights, output_dir=tmp_path / "out")
        assert_said(caught.value, CheckpointError, weights, "")
        assert not (tmp_path / "out").exists()


def test_segdiff_is_still_what_train_says(bundle) -> None:
    parser = ConfigParser()
    parser.read_config(bundle.files("train"))
    parser.update({"device": "cpu"})
    assert isinstance(parser.get_parsed_content("inferer"), SegDiffInferer)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"num_generations": 9}, "num_inference_steps=0 and num_generations=1, found 0 and 9"),
        ({"num_inference_steps": 3}, "num_inference_steps=0 and num_generations=1, found 3 and 1"),
        ({"window_size": 60}, "roi_size is 60, expected multiples of 16"),
        ({"uncertainty": True}, "several generations, of which SegmentorInferer has none"),
    ],
)
def test_what_a_network_without_diffusion_cannot_do(
    unet, trained: Path, tmp_path: Path, assert_said, option: dict[str, Any], message: str
) -> None:
    with pytest.raises(Exception) as caught:  # noqa: PT011
        unet.run("train evaluate unet", ckpt=trained / "model.pt", output_dir=tmp_path / "out", **option)
    assert_said(caught.value, ValueError, "", message)
    assert not (tmp_path / "out").exists()
