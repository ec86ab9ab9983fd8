# SPDX-License-Identifier: Apache-2.0
"""The bundle's options that judge more than the mask: uncertainty, temperature, instances."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.measure import label

from monai_segdiff import ProbabilityToInstances, TemperatureScaling, monuseg_datalist
from monai_segdiff.exceptions import DatasetError
from monai_segdiff.metrics import compute_aggregated_jaccard, compute_calibration_score, compute_error_detection

STATISTICS = ("standard_deviation", "entropy", "mutual_information")

SEPARATION = {"min_distance": 2, "sigma": 1.25, "min_size": 5}


@pytest.fixture(scope="module")
def dataset(bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two of the images, with the connected parts of their masks as instances."""
    root = tmp_path_factory.mktemp("instances")
    for entry in monuseg_datalist(bundle.dataset)[:2]:
        for key in ("image", "label"):
            folder = root / f"{key}s"
            folder.mkdir(exist_ok=True)
            shutil.copy(entry[key], folder)
        mask = np.asarray(Image.open(entry["label"])) > 0
        (root / "instances").mkdir(exist_ok=True)
        Image.fromarray(label(mask).astype(np.uint16)).save(root / "instances" / f"{entry['name']}.png")
    return root


def test_evaluation_of_everything(bundle, dataset: Path, tmp_path: Path) -> None:
    run = bundle.run(
        "train evaluate",
        ckpt=bundle.weights,
        dataset_dir=dataset,
        output_dir=tmp_path,
        uncertainty=True,
        instances=True,
        temperature=2.0,
        num_generations=3,
        instance_separation=SEPARATION,
    )
    report = json.loads((tmp_path / "metrics.json").read_text())
    assert report["temperature"] == 2.0
    inferer, network = (run.parser.get_parsed_content(name) for name in ("inferer", "network"))
    for item, row in zip(run.parser.get_parsed_content("validate#dataset"), report["images"], strict=True):
        statistics = inferer.statistics(item["image"].as_tensor()[None], network)
        probability = TemperatureScaling(2.0)(statistics.mean)
        truth = item["label"].as_tensor()[None]
        pred = (probability > 0.5).float()
        expected = compute_calibration_score(probability, truth).item()
        assert row["paper_calibration_score"] == pytest.approx(expected, abs=1e-6)
        found = ProbabilityToInstances(**SEPARATION)(probability[0])[None]
        true = item["instances"].as_tensor()[None]
        assert torch.equal(true > 0, truth > 0)
        assert row["aji"] == pytest.approx(compute_aggregated_jaccard(found, true).item(), abs=1e-6)
        assert 0 < row["aji"] < 1
        for name in STATISTICS:
            auroc = compute_error_detection(getattr(statistics, name), (pred != truth).float()).item()
            assert row[f"auroc_{name}"] == pytest.approx(auroc, abs=1e-6)
        saved = np.load(tmp_path / "uncertainty" / f"{Path(row['name']).stem}_uncertainty.npz")
        # Rows first in files, x first in MONAI.
        # Together with the entropy of the same probability, so without the temperature.
        assert np.array_equal(saved["probability"][0], statistics.mean[0, 0].numpy().T)
        for name in STATISTICS:
            assert np.array_equal(saved[name][0], getattr(statistics, name)[0, 0].numpy().T)
    files = {path.name for path in tmp_path.iterdir()}
    assert files == {"metrics.csv", "metrics.json", "overlays", "reliability.png", "risk_coverage.png", "uncertainty"}


def test_switches_are_off_by_default_and_by_word(bundle, tmp_path: Path) -> None:
    scores = []
    for name, options in {"default": {}, "words": {"uncertainty": "false", "instances": "False"}}.items():
        bundle.run("train evaluate", ckpt=bundle.weights, output_dir=tmp_path / name, **options)
        report = json.loads((tmp_path / name / "metrics.json").read_text())
        scores.append(report["mean"])
        assert not (tmp_path / name / "uncertainty").exists()
    assert scores[0] == scores[1]
    overlap = ["dice", "iou", "precision", "recall", "area_ratio", "boundary_f"]
    assert list(scores[0]) == [*overlap, "paper_calibration_score", "expected_calibration_error"]


def test_temperature_changes_calibration_but_no_mask(bundle, tmp_path: Path) -> None:
    rows = []
    for temperature in (1.0, 3.0):
        folder = tmp_path / str(temperature)
        bundle.run("train evaluate", ckpt=bundle.weights, output_dir=folder, temperature=temperature)
        rows.append(json.loads((folder / "metrics.json").read_text())["images"])
    for before, after in zip(*rows, strict=True):
        assert [before[count] for count in ("tp", "fp", "fn")] == [after[count] for count in ("tp", "fp", "fn")]
        assert before["paper_calibration_score"] != after["paper_calibration_score"]


def test_missing_instances_are_reported(bundle, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="Failed to evaluate") as caught:
        bundle.run("train evaluate", ckpt=bundle.weights, output_dir=tmp_path / "out", instances=True)
    cause: BaseException | None = caught.value
    while cause is not None and not isinstance(cause, DatasetError):
        cause = cause.__cause__ or cause.__context__
    assert "no instances for 4 of 4 images" in str(cause)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("uncertainty", [True, False])
def test_inference(bundle, tmp_path: Path, uncertainty: bool) -> None:
    rough = np.random.default_rng(0).integers(60, 255, (7, 10, 3), dtype=np.uint8)
    (tmp_path / "in").mkdir()
    Image.fromarray(rough).resize((97, 61), Image.Resampling.BICUBIC).save(tmp_path / "in" / "a.png")
    out = tmp_path / "out"
    run = bundle.run(
        "inference",
        ckpt=bundle.weights,
        dataset_dir=tmp_path / "in",
        output_dir=out,
        uncertainty=uncertainty,
        num_generations=3,
        temperature=2.0,
    )
    names = {"a_mask.png", "a_overlay.png", "a_probability.png"}
    if not uncertainty:
        assert {path.name for path in out.iterdir()} == names
        return
    assert {path.name for path in out.iterdir()} == names | {"a_uncertainty.npz", "a_uncertainty.png"}
    saved = np.load(out / "a_uncertainty.npz")
    assert saved["probability"].shape == (1, 61, 97)
    written = np.asarray(Image.open(out / "a_probability.png")) / 255
    calibrated = TemperatureScaling(2.0)(torch.from_numpy(saved["probability"][0])).numpy()
    assert np.abs(calibrated - written).max() <= 1 / 255
    assert np.abs(saved["probability"][0] - written).max() > 10 / 255
    inferer, network = (run.parser.get_parsed_content(name) for name in ("inferer", "network"))
    item = next(iter(run.parser.get_parsed_content("dataset")))
    statistics = inferer.statistics(item["image"].as_tensor()[None], network)
    assert np.array_equal(saved["mutual_information"][0], statistics.mutual_information[0, 0].numpy().T)
