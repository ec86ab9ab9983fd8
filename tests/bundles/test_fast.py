# SPDX-License-Identifier: Apache-2.0
"""The bundle for 512 pixels: the same configs with ``fast.json`` over them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from monai.bundle import ConfigParser
from PIL import Image

from monai_segdiff import load_weights


@pytest.fixture(scope="module")
def fast(bundle):
    """The bundle with a tiny network and the scale and windows of ``fast.json``."""
    return replace(bundle, sampling={"num_inference_steps": 2, "device": "cpu"}, scoring={})


def test_training_evaluation_and_inference(fast, tmp_path: Path) -> None:
    run = tmp_path / "run"
    fast.run("train fast", run_dir=run)
    assert json.loads((run / "model.json").read_text())["image_scale"] == 0.512
    fast.run("train fast evaluate", run_dir=run, training_split="none")
    report = json.loads((run / "evaluation" / "metrics.json").read_text())
    assert report["checkpoint"] == str(run / "model.pt")
    assert (report["image_scale"], report["score_scale"], report["window_size"]) == (0.512, 0.512, 128)
    options = {"dataset_dir": fast.dataset / "images", "output_dir": tmp_path / "out"}
    fast.run("inference fast", ckpt=run / "model.pt", **options)
    assert np.asarray(Image.open(tmp_path / "out" / "sample_000_mask.png")).shape == (128, 128)


def test_no_order_of_the_files_takes_other_weights(fast) -> None:
    for names in ("train fast evaluate", "train evaluate fast"):
        parser = fast.workflow(names, run_dir="RUN", device="cpu").parser
        assert parser.get_parsed_content("ckpt") == "RUN/model.pt"


@pytest.mark.parametrize("names", ["train fast", "train fast evaluate", "inference fast"])
def test_released_weights(bundle, names: str) -> None:
    parser = ConfigParser()
    parser.read_config(bundle.files(names))
    parser.update({"device": "cpu"})
    weights = bundle.folder / "models" / "model_512.pt"
    load_weights(parser.get_parsed_content("network_def"), weights, parser.get_parsed_content("model_settings"))
