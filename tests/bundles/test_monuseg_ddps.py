# SPDX-License-Identifier: Apache-2.0
"""The bundle of nuclei with a mask prior. What it shares with that of volumes is tested in test_two_stages.py."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import monai.bundle
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.fl.client import MonaiAlgo
from monai.fl.utils.constants import ExtraItems
from monai.fl.utils.exchange_object import ExchangeObject
from monai.metrics import DiceMetric, compute_surface_dice
from PIL import Image
from skimage.measure import label

from monai_segdiff import DiffusionSegmentor, MaskPriorUNet, ProbabilityToInstances, TemperatureScaling
from monai_segdiff.metrics import compute_aggregated_jaccard, compute_calibration_score, compute_error_detection

NAMES = [f"sample_{i:03d}" for i in range(4)]
STATISTICS = ("standard_deviation", "entropy", "mutual_information")


def read(bundle, *names: str) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config(bundle.files(" ".join(names)))
    parser.update(bundle.settings(" ".join(names)))
    return parser


def parts(run: Any) -> list[Any]:
    inferer, network = (run.parser.get_parsed_content(name) for name in ("inferer", "network"))
    return [inferer, network.eval()]  # evaluators put it back into training mode


def by_hand(bundle, picture: np.ndarray, inferer: Any, network: torch.nn.Module) -> np.ndarray:
    """Probability, rows first, of an RGB picture at the scale of the network."""
    mean, std = (read(bundle, "train")[name] for name in ("image_mean", "image_std"))
    image = (picture.astype(np.float32) - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)
    x_first = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 1, 0)))
    return inferer(x_first[None], network)[0, 0].numpy().T


# evaluation


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")
def test_evaluation(nuclei, tmp_path: Path) -> None:
    run = nuclei.run("train evaluate", ckpt=nuclei.weights, output_dir=tmp_path)
    report = json.loads((tmp_path / "metrics.json").read_text())
    assert [row["name"] for row in report["images"]] == [f"{name}.png" for name in NAMES]
    dice = DiceMetric(ignore_empty=False)
    for name, row in zip(NAMES, report["images"], strict=True):
        picture = np.asarray(Image.open(nuclei.dataset / "images" / f"{name}.png"))
        truth = torch.from_numpy(np.asarray(Image.open(nuclei.dataset / "labels" / f"{name}.png")) > 0)[None, None]
        mask = torch.from_numpy(by_hand(nuclei, picture, *parts(run)) > 0.5)[None, None]
        assert 0.05 < mask.float().mean() < 0.95
        assert row["dice"] == pytest.approx(dice(mask, truth).item(), abs=1e-6)
        options = {"class_thresholds": [2.0], "include_background": True, "spacing": [1.0, 1.0]}
        surface = compute_surface_dice(mask, truth, **options).item()
        assert row["surface_dice"] == pytest.approx(surface, abs=1e-4)
    overlap = ["dice", "iou", "precision", "recall", "area_ratio", "boundary_f"]
    surface = [name for score in ("surface_dice", "hd95", "boundary_iou") for name in (score, f"{score}_nucleus")]
    assert list(report["mean"]) == [*overlap, *surface, "paper_calibration_score", "expected_calibration_error"]
    metric = run.parser.get_parsed_content("evaluator").state.metrics["val_mean_dice"]
    assert metric == pytest.approx(report["mean"]["dice"]["value"], abs=1e-6)
    assert (report["sampler"], report["num_inference_steps"], report["window_size"]) == ("re_noise", 3, 64)
    assert sorted(path.name for path in (tmp_path / "overlays").iterdir()) == [f"{name}_overlay.png" for name in NAMES]


def test_distances_are_in_pixels_of_the_picture(nuclei, tmp_path: Path) -> None:
    run = nuclei.run("train evaluate", ckpt=nuclei.weights, output_dir=tmp_path, score_scale=0.5)
    (row, *_) = json.loads((tmp_path / "metrics.json").read_text())["images"]
    scorer = run.parser.get_parsed_content("validate#handlers#2").scorers[2]
    (item, *_) = run.parser.get_parsed_content("validate#dataset")
    item["pred"] = item["label"].clone()
    item["pred"][0, :-1] = item["label"][0, 1:]  # one pixel at this scale, two of the picture
    scores = scorer.measure(item).scores
    assert (scores["surface_dice"], scores["hd95"]) == (1.0, pytest.approx(2.0))
    assert row["hd95"] < 128 * 2**0.5


def test_evaluation_of_everything(nuclei, tmp_path: Path) -> None:
    data = tmp_path / "data"
    for key in ("images", "labels"):
        (data / key).mkdir(parents=True)
        shutil.copy(nuclei.dataset / key / "sample_001.png", data / key)
    (data / "instances").mkdir()
    mask = np.asarray(Image.open(data / "labels" / "sample_001.png")) > 0
    Image.fromarray(label(mask).astype(np.uint16)).save(data / "instances" / "sample_001.png")
    separation = {"min_distance": 2, "sigma": 1.25, "min_size": 5}
    options: dict[str, Any] = {"uncertainty": "true", "instances": "true", "temperature": 2.0, "num_generations": 3}
    options |= {"instance_separation": separation}
    arguments = {"ckpt": nuclei.weights, "dataset_dir": data, "output_dir": tmp_path / "out"}
    run = nuclei.run("train evaluate", **arguments, **options)
    (row,) = json.loads((tmp_path / "out" / "metrics.json").read_text())["images"]
    inferer, network = parts(run)
    (item,) = run.parser.get_parsed_content("validate#dataset")
    statistics = inferer.statistics(item["image"].as_tensor()[None], network)
    probability, truth = TemperatureScaling(2.0)(statistics.mean), item["label"].as_tensor()[None]
    pred = (probability > 0.5).float()
    assert row["paper_calibration_score"] == pytest.approx(
        compute_calibration_score(probability, truth).item(), abs=1e-6
    )
    found = ProbabilityToInstances(**separation)(probability[0])[None]
    jaccard = compute_aggregated_jaccard(found, item["instances"].as_tensor()[None]).item()
    assert row["aji"] == pytest.approx(jaccard, abs=1e-6)
    for name in STATISTICS:
        auroc = compute_error_detection(getattr(statistics, name), (pred != truth).float()).item()
        assert row[f"auroc_{name}"] == pytest.approx(auroc, abs=1e-6)
    saved = np.load(tmp_path / "out" / "uncertainty" / "sample_001_uncertainty.npz")
    assert np.array_equal(saved["probability"][0], statistics.mean[0, 0].numpy().T)  # rows first in files
    names = {"metrics.csv", "metrics.json", "overlays", "reliability.png", "risk_coverage.png", "uncertainty"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names


# inference


@pytest.fixture
def pictures(tmp_path: Path) -> dict[str, np.ndarray]:
    """A folder of pictures of several kinds and sizes; what RGB they hold."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    found = {}
    for name, mode, (width, height) in (("a.png", "RGB", (97, 61)), ("b.png", "RGBA", (20, 35))):
        rough = rng.integers(60, 255, (height // 10 + 1, width // 10 + 1, 3), dtype=np.uint8)
        picture = Image.fromarray(rough).resize((width, height), Image.Resampling.BICUBIC)
        if mode == "RGBA":
            picture.putalpha(200)
        picture.save(folder / name)
        found[name[0]] = np.asarray(picture)[..., :3]
    return found


def test_inference(nuclei, pictures: dict[str, np.ndarray], tmp_path: Path) -> None:
    out = tmp_path / "out"
    run = nuclei.run("inference", dataset_dir=tmp_path / "pictures", ckpt=nuclei.weights, output_dir=out)
    kinds = ("mask", "overlay", "probability")
    assert sorted(path.name for path in out.iterdir()) == [f"{name}_{kind}.png" for name in "ab" for kind in kinds]
    for name, picture in pictures.items():
        mask, overlay, probability = (np.asarray(Image.open(out / f"{name}_{kind}.png")) for kind in kinds)
        assert mask.shape == probability.shape == picture.shape[:2]
        assert overlay.shape == picture.shape
        assert set(np.unique(mask)) <= {0, 255}
        expected = by_hand(nuclei, picture, *parts(run))
        assert np.abs(probability - 255 * expected).max() <= 1.0
        clear = np.abs(expected - 0.5) > 1e-3
        assert np.array_equal(mask[clear] == 255, expected[clear] > 0.5)
    again, other = tmp_path / "again", tmp_path / "other"
    for folder, seed in ((again, 0), (other, 1)):
        arguments = {"dataset_dir": tmp_path / "pictures" / "a.png", "ckpt": nuclei.weights, "output_dir": folder}
        nuclei.run("inference", **arguments, seed=seed)
    first, same, another = ((folder / "a_probability.png").read_bytes() for folder in (out, again, other))
    assert first == same != another


def test_inference_at_another_scale_with_uncertainty(nuclei, pictures: dict[str, np.ndarray], tmp_path: Path) -> None:
    """Sizes that no level of the network divides, windows larger than the image, results at the picture's size."""
    out = tmp_path / "out"
    options = {"image_scale": 0.512, "window_size": 256, "uncertainty": "true", "num_generations": 3}
    nuclei.run("inference", dataset_dir=tmp_path / "pictures", ckpt=nuclei.weights, output_dir=out, **options)
    for name, picture in pictures.items():
        for kind in ("mask", "probability", "overlay"):
            with Image.open(out / f"{name}_{kind}.png") as result:
                assert result.size == picture.shape[1::-1]
        saved = np.load(out / f"{name}_uncertainty.npz")
        for key in ("probability", *STATISTICS):
            assert saved[key].shape == (1, *picture.shape[:2])
            assert np.isfinite(saved[key]).all()


def test_parts_that_monai_label_takes(nuclei, pictures: dict[str, np.ndarray], tmp_path: Path) -> None:
    """By their names, as a server uses them, without dataset and evaluator."""
    parser = read(nuclei, "inference")
    network = copy.deepcopy(parser.get_parsed_content("network_def"))
    network.load_state_dict(torch.load(nuclei.weights, weights_only=True))
    segmentor = DiffusionSegmentor(network, parser.get_parsed_content("inferer")).eval()
    data = parser.get_parsed_content("preprocessing")({"image": str(tmp_path / "pictures" / "a.png")})
    with torch.no_grad():
        data["pred"] = segmentor(data["image"][None])[0]
    mask = np.asarray(parser.get_parsed_content("post_transforms")(data)["pred"])
    assert mask.shape == (97, 61)
    expected = by_hand(nuclei, pictures["a"], segmentor.inferer, network)
    clear = np.abs(expected - 0.5) > 1e-3
    assert np.array_equal(mask.T[clear] == 1, expected[clear] > 0.5)
    options = {"num_inference_steps", "num_generations", "seed"}
    written = {"result_extension": ".png", "result_dtype": "uint8"}
    assert parser["displayable_configs"] == {name: f"@{name}" for name in options} | written


def test_training_and_inference_prepare_images_alike(nuclei) -> None:
    paths = {key: str(nuclei.dataset / f"{key}s" / "sample_000.png") for key in ("image", "label")}
    results = []
    for name, preprocessing in (("train", "validate#preprocessing"), ("inference", "preprocessing")):
        parser = read(nuclei, name)
        parser.update({"image_scale": 0.512})
        results.append(parser.get_parsed_content(preprocessing)(dict(paths))["image"])
    assert results[0].shape == (3, 65, 65)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0].affine, results[1].affine)


# other programs


@pytest.mark.filterwarnings("ignore:parsing config_file:UserWarning")
def test_load_by_name(nuclei, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copied = tmp_path / "bundles" / "monuseg_ddps"
    shutil.copytree(nuclei.configs, copied / "configs")
    parser = ConfigParser(json.loads((copied / "configs" / "inference.json").read_text()))
    parser.update(nuclei.tiny)
    (copied / "configs" / "inference.json").write_text(json.dumps(parser.get()))
    (copied / "models").mkdir()
    shutil.copy(nuclei.weights, copied / "models")
    monkeypatch.chdir(tmp_path)
    arguments = {"bundle_dir": "bundles", "workflow_type": "inference", "device": "cpu", "source": "github"}
    network = monai.bundle.load("monuseg_ddps", version="0.1.0", **arguments)
    assert type(network) is MaskPriorUNet
    expected = torch.load(nuclei.weights, weights_only=True)
    assert all(torch.equal(value, expected[name]) for name, value in network.state_dict().items())


@pytest.mark.filterwarnings("ignore:executing the bundle config:UserWarning")
def test_round_of_federated_learning(nuclei, tmp_path: Path) -> None:
    """The prior is trained; base and prior are exchanged."""
    algo = MonaiAlgo(
        bundle_root=str(nuclei.folder),
        send_weight_diff=False,
        train_kwargs=nuclei.settings("train", run_dir=str(tmp_path)),
        eval_kwargs=nuclei.settings("train", ckpt=str(nuclei.weights), output_dir=str(tmp_path / "evaluation")),
    )
    algo.initialize(extra={ExtraItems.CLIENT_NAME: "one"})
    file = torch.load(nuclei.weights, weights_only=True)
    assert algo.get_weights().weights.keys() == file.keys()
    algo.train(ExchangeObject(weights={name: value.numpy() for name, value in file.items()}))
    returned = {name: torch.as_tensor(value) for name, value in algo.get_weights().weights.items()}
    assert algo.trainer.state.epoch == 1
    unchanged = {name for name, value in returned.items() if torch.equal(value, file[name])}
    assert {name for name in file if name.startswith("base.")} | {"embedding.weight"} == unchanged
    algo.evaluate(ExchangeObject(weights={name: 2 * value.numpy() for name, value in file.items()}))
    assert all(torch.equal(value, 2 * file[name]) for name, value in algo.evaluator.network.state_dict().items())
