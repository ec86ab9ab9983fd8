# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from PIL import Image
from torch.nn import functional as F

from monai_segdiff import DiffusionSegmentor, RespacedDDPMScheduler, cityscapes_split, generate_cityscapes_sample

FOLDER = Path(__file__).parents[2] / "bundles" / "cityscapes"
CONFIGS = FOLDER / "configs"
SIZE = 32
SAMPLING = {"image_size": [SIZE, SIZE], "num_inference_steps": 2, "device": "cpu"}


def read(*names: str) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config([str(CONFIGS / f"{name}.json") for name in names])
    return parser


@pytest.fixture(scope="module")
def cityscapes(bundle, tmp_path_factory: pytest.TempPathFactory):
    """The bundle with a tiny network, five scenes, and random weights."""
    folder = tmp_path_factory.mktemp("data")
    dataset = generate_cityscapes_sample(folder / "scenes", num_images=5, image_size=(128, 192))
    training = {"crops_dir": str(folder / "crops"), "max_epochs": 2, "val_interval": 1}
    changes = {"folder": FOLDER, "configs": CONFIGS, "sampling": SAMPLING, "training": training}
    return dataclasses.replace(bundle, dataset=dataset, **changes)


@pytest.fixture(scope="module")
def trained(cityscapes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished run of two epochs."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    cityscapes.run("train", run_dir=folder)
    return folder


@pytest.fixture(scope="module")
def parts(cityscapes, trained: Path) -> dict[str, list[dict[str, str]]]:
    """The crops of buses in tight boxes, which the training has cut out."""
    return cityscapes_split(cityscapes.training["crops_dir"])


def picture(path: str) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def by_hand(crop: np.ndarray, run: Any) -> np.ndarray:
    """Probability at the crop's own size, rows first: resized, sampled, and resized back."""
    inferer, network = (run.parser.get_parsed_content(name) for name in ("inferer", "network"))
    x_first = torch.from_numpy(np.ascontiguousarray(crop.transpose(2, 1, 0))).float()
    image = F.interpolate(x_first[None], size=(SIZE, SIZE), mode="bilinear", align_corners=False)
    imagenet = torch.tensor([[123.675, 116.28, 103.53], [58.395, 57.12, 57.375]])[..., None, None]
    probability = inferer((image - imagenet[0]) / imagenet[1], network)
    return F.interpolate(probability, size=x_first.shape[1:], mode="bilinear", align_corners=False)[0, 0].numpy().T


# configs


@pytest.mark.parametrize(
    ("names", "kind"),
    [("train", "train"), ("train evaluate", "eval"), ("train paper", "train"), ("inference", "infer")],
)
def test_properties(cityscapes, parts: Any, tmp_path: Path, names: str, kind: str) -> None:
    paths: dict[str, Any] = {"run_dir": tmp_path / "run"}
    if names == "inference":
        paths = {"output_dir": tmp_path / "out", "dataset_dir": f"{cityscapes.training['crops_dir']}/test"}
    workflow = cityscapes.workflow(names, kind, **cityscapes.settings(names, ckpt=cityscapes.weights, **paths))
    workflow.initialize()
    assert workflow.check_properties() == []
    for name in workflow.properties:
        if name != "_meta_":
            getattr(workflow, name)


def test_paper_config_is_the_published_method() -> None:
    parser = read("train", "paper")
    parser.update({"device": "cpu"})
    with torch.device("meta"):
        network = parser.get_parsed_content("network_def")
    assert sum(parameter.numel() for parameter in network.parameters()) == 162_766_017
    assert network.size_divisor == 32
    inferer = parser.get_parsed_content("inferer")
    assert type(inferer.scheduler) is RespacedDDPMScheduler
    assert inferer.scheduler.prediction_type == "epsilon"
    assert inferer.scheduler.timesteps.tolist() == list(range(99, -1, -1))
    assert inferer.num_generations == 9
    assert inferer.windows["roi_size"] is None
    assert (parser["image_size"], parser["images_per_batch"], parser["iterations"]) == ([128, 128], 30, 300_000)


@pytest.mark.parametrize(
    ("overrides", "epochs", "interval"),
    [
        ({"iterations": 5}, 5, 1),
        ({"iterations": 170, "num_validations": 10}, 170, 17),
        ({"iterations": 100, "images_per_batch": 1}, 34, 1),
    ],
)
def test_length_of_a_training(
    cityscapes, parts: Any, tmp_path: Path, overrides: dict[str, int], epochs: int, interval: int
) -> None:
    assert len(parts["training"]) == 3
    settings = cityscapes.settings("train", run_dir=tmp_path / "run", **overrides)
    del settings["max_epochs"], settings["val_interval"]
    workflow = cityscapes.workflow("train", **settings)
    workflow.initialize()
    assert workflow.parser.get_parsed_content("max_epochs") == epochs
    assert workflow.parser.get_parsed_content("val_interval") == interval


def test_augmentation_is_the_published_one() -> None:
    flip, rotate, zoom = read("train", "paper").get_parsed_content("train#augmentation")
    # Pictures are read with x first: axis 0 is x.
    assert (flip.flipper.spatial_axis, flip.prob) == (0, 0.5)
    assert rotate.rand_rotate.range_x == pytest.approx((-np.deg2rad(22), np.deg2rad(22)), abs=1e-3)
    assert (zoom.rand_zoom.min_zoom, zoom.rand_zoom.max_zoom) == ((0.75,), (1.25,))
    assert (rotate.prob, zoom.prob) == (1.0, 1.0)
    assert (rotate.padding_mode, zoom.padding_mode) == (("zeros", "zeros"), ("constant", "constant"))


def test_training_items(cityscapes, parts: Any) -> None:
    """Image and mask have the network's size and move together."""
    parser = read("train")
    parser.update(cityscapes.settings("train"))
    prepare = parser.get_parsed_content("train#preprocessing").set_random_state(0)
    # The mask as its own image: white where the object is.
    item = {**parts["training"][0], "image": parts["training"][0]["label"]}
    drawn = [prepare(dict(item)) for _ in range(4)]
    for data in drawn:
        assert data["image"].shape == (3, SIZE, SIZE)
        assert data["label"].shape == (1, SIZE, SIZE)
        assert set(data["label"].unique().tolist()) == {0.0, 1.0}
        white = data["image"][0] * 58.395 + 123.675 > 127.5
        assert (white == (data["label"][0] == 1)).float().mean() > 0.93
    assert not torch.equal(drawn[0]["label"], drawn[1]["label"])


# training, evaluation


def test_files_of_a_run(trained: Path, parts: Any) -> None:
    names = {path.name for path in trained.iterdir()}
    assert names == {
        *("checkpoint.pt", "model.pt", "model.json", "history.json", "curves.png", "overlays", "tensorboard")
    }
    overlays = {path.name: picture(str(path)).shape for path in (trained / "overlays").iterdir()}
    assert overlays == {f"{entry['name']}_overlay.png": picture(entry["image"]).shape for entry in parts["validation"]}
    history = json.loads((trained / "history.json").read_text())
    assert history["loss"]["iteration"] == [1, 2]
    assert history["validation"]["epoch"] == [1, 2]
    settings = json.loads((trained / "model.json").read_text())
    assert settings["image_size"] == [SIZE, SIZE]


@pytest.mark.parametrize("part", ["test", "validation"])
def test_evaluation_at_the_size_of_the_crop(cityscapes, parts: Any, tmp_path: Path, part: str) -> None:
    run = cityscapes.run("train evaluate", ckpt=cityscapes.weights, output_dir=tmp_path, part=part)
    report = json.loads((tmp_path / "metrics.json").read_text())
    assert [row["name"] for row in report["images"]] == [f"{entry['name']}.png" for entry in parts[part]]
    scores, shares = [], []
    for entry, row in zip(parts[part], report["images"], strict=True):
        truth = picture(entry["label"]) > 0
        assert truth.shape != (SIZE, SIZE)
        assert row["tp"] + row["fn"] == np.count_nonzero(truth)
        assert picture(str(tmp_path / "overlays" / f"{entry['name']}_overlay.png")).shape[:2] == truth.shape
        probability = by_hand(picture(entry["image"]), run)
        mask = probability > 0.5
        unsure = np.count_nonzero(np.abs(probability - 0.5) < 1e-4)
        assert abs(row["tp"] - np.count_nonzero(mask & truth)) <= unsure
        assert abs(row["fp"] - np.count_nonzero(mask & ~truth)) <= unsure
        assert row["iou"] == pytest.approx(row["tp"] / (row["tp"] + row["fp"] + row["fn"]))
        scores.append(row["iou"])
        shares.append(mask.mean())
    assert 0.05 < min(shares) < 0.95, "the random weights mark neither all nor nothing"
    assert report["mean"]["iou"]["value"] == pytest.approx(sum(scores) / len(scores))
    assert (report["class_name"], report["box"], report["part"]) == ("bus", "tight", part)


def test_slivers(cityscapes, tmp_path: Path) -> None:
    """A sliver is a crop like any other."""
    dataset = shutil.copytree(cityscapes.dataset, tmp_path / "scenes")
    for path in (dataset / "gtFine" / "val").rglob("*.json"):
        content = json.loads(path.read_text())
        boxes = [("bus", 20, 9, 30, 49), ("pole", 21, 9, 30, 49), ("bus", 40, 9, 80, 30), ("wall", 40, 10, 80, 30)]
        content["objects"] = [
            {"label": label, "polygon": [[x0, y0], [x1, y0], [x1, y1], [x0, y1]]}
            for label, x0, y0, x1, y1 in [*boxes, ("bus", 100, 9, 101, 11), ("bus", 110, 9, 110, 9)]
        ]
        path.write_text(json.dumps(content))
    settings = {"dataset_dir": dataset, "crops_dir": tmp_path / "crops", "output_dir": tmp_path / "out"}
    cityscapes.run("train evaluate", ckpt=cityscapes.weights, min_size=1, **settings)
    report = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert [row["tp"] + row["fn"] for row in report["images"]] == [41, 41, 6, 1]


def test_crops_are_those_of_class_and_box(cityscapes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By default in the bundle's folder, one for each, and those of the stand-in apart."""
    for on_sample in (True, False):
        sample = str(cityscapes.dataset if on_sample else tmp_path / "none")
        settings = cityscapes.settings("train", bundle_root=str(tmp_path), sample_dir=sample)
        settings["dataset_dir"] = str(cityscapes.dataset)
        del settings["crops_dir"], settings["max_epochs"], settings["val_interval"]
        parser = read("train")
        parser.update({**settings, "class_name": "car", "box": "expansion"})
        name = "sample_car_expansion" if on_sample else "car_expansion"
        assert parser.get_parsed_content("crops_dir") == f"{tmp_path}/crops/{name}"
        assert parser.get_parsed_content("run_dir") == f"{tmp_path}/runs/{name}"
        assert parser.get_parsed_content("iterations") == (120 if on_sample else 17000)
    workflow = cityscapes.workflow("train", **settings, class_name="car", box="expansion")
    workflow.initialize()
    marker = json.loads((tmp_path / "crops" / "car_expansion" / "crops.json").read_text())["settings"]
    assert (marker["class_name"], marker["box"], marker["expansion"]) == ("car", "expansion", 15)
    assert marker["training_expansion"] == [10, 20]
    assert (tmp_path / "runs" / "car_expansion").is_dir()
    assert "Using" not in capsys.readouterr().out


# inference


def test_inference(cityscapes, parts: Any, tmp_path: Path) -> None:
    settings = {"dataset_dir": f"{cityscapes.training['crops_dir']}/test", "output_dir": tmp_path}
    run = cityscapes.run("inference", ckpt=cityscapes.weights, **settings)
    kinds = ("mask", "overlay", "probability")
    names = [entry["name"] for entry in parts["test"]]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"{name}_{kind}.png" for name in names for kind in kinds
    ]
    for entry in parts["test"]:
        crop = picture(entry["image"])
        mask, overlay, probability = (picture(str(tmp_path / f"{entry['name']}_{kind}.png")) for kind in kinds)
        assert mask.shape == probability.shape == crop.shape[:2]
        assert overlay.shape == crop.shape
        expected = 255 * by_hand(crop, run)
        assert np.abs(probability - expected).max() <= 1.0
        clear = np.abs(expected - 127.5) > 1
        assert np.array_equal(mask[clear] == 255, expected[clear] > 127.5)


def test_parts_that_monai_label_takes(cityscapes, parts: Any) -> None:
    parser = read("inference")
    parser.update(cityscapes.settings("inference"))
    network = parser.get_parsed_content("network_def")
    network.load_state_dict(torch.load(cityscapes.weights, weights_only=True))
    data = parser.get_parsed_content("preprocessing")({"image": parts["test"][0]["image"]})
    segmentor = DiffusionSegmentor(network, parser.get_parsed_content("inferer")).eval()
    data["pred"] = segmentor(data["image"][None])[0]
    mask = np.asarray(parser.get_parsed_content("post_transforms")(data)["pred"])
    assert mask.shape == picture(parts["test"][0]["image"]).shape[1::-1]
    assert set(np.unique(mask)) == {0, 1}


def test_uncertainty_at_the_size_of_the_crop(cityscapes, parts: Any, tmp_path: Path) -> None:
    several = {"uncertainty": True, "num_generations": 2, "ckpt": cityscapes.weights}
    cityscapes.run("train evaluate", output_dir=tmp_path / "evaluation", **several)
    crops = f"{cityscapes.training['crops_dir']}/test"
    cityscapes.run("inference", output_dir=tmp_path / "inference", dataset_dir=crops, **several)
    for entry in parts["test"]:
        found = []
        for folder in ("evaluation/uncertainty", "inference"):
            with np.load(tmp_path / folder / f"{entry['name']}_uncertainty.npz") as maps:
                found.append({name: maps[name] for name in maps})
        evaluated, inferred = found
        assert len(evaluated) == 4
        for name, values in evaluated.items():
            assert values.shape == (1, *picture(entry["label"]).shape)
            assert np.array_equal(values, inferred[name])
        assert evaluated["standard_deviation"].max() > 0


# command lines


@pytest.mark.end_to_end
def test_commands_of_the_readme(cityscapes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In processes, for one class and box, with the tiny network as the default of a copy of the bundle."""
    copy = tmp_path / "bundles" / "cityscapes"
    shutil.copytree(CONFIGS, copy / "configs")
    tiny = {name.partition("#")[2]: value for name, value in cityscapes.settings("").items() if "#" in name}
    for path in (copy / "configs").glob("*.json"):
        config = json.loads(path.read_text())
        config |= {name: value for name, value in SAMPLING.items() if name in config}
        config |= {"iterations": 2} if path.stem == "train" else {}
        if "network_def" in config:
            config["network_def"] |= tiny
        path.write_text(json.dumps(config))
    blocks = re.findall(r"^```\n(.*?)\n```$", (FOLDER / "docs" / "README.md").read_text(), flags=re.M | re.S)
    train, sample, cut, evaluate, everything, segment = blocks
    assert all(
        command in everything for command in (train.partition(" --dataset")[0], evaluate.partition(" --dataset")[0])
    )
    values = {
        "in bicycle bus person train truck motorcycle car rider;": "in bus;",
        "in tight expansion;": "in expansion;",
        "CITYSCAPES": str(cityscapes.dataset),
        "CROPS": "bundles/cityscapes/crops/bus_expansion/test",
        "RUN/model.pt": "bundles/cityscapes/runs/bus_expansion/model.pt",
        "OUT": "out",
        "python": sys.executable,
    }
    outputs = []
    for block in (everything, segment, sample):
        script = re.sub("|".join(values), lambda found: values[found.group()], block)
        done = subprocess.run(
            ["bash", "-euc", script],
            cwd=tmp_path,
            env=cityscapes.environment(),
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        outputs.append(done.stdout)
    monkeypatch.chdir(tmp_path)
    exec(cut.removeprefix('python -c "').removesuffix('"').replace("CITYSCAPES", str(cityscapes.dataset)))
    report = json.loads((copy / "runs" / "bus_expansion" / "evaluation" / "metrics.json").read_text())
    assert (report["box"], report["part"]) == ("expansion", "test")
    names = [entry["name"] for entry in cityscapes_split(copy / "crops" / "bus_expansion")["test"]]
    assert [row["name"] for row in report["images"]] == [f"{name}.png" for name in names]
    assert {path.name for path in (tmp_path / "out").glob("*_mask.png")} == {f"{name}_mask.png" for name in names}
    assert (copy / "runs" / "sample_bus_tight" / "model.pt").is_file()
    assert (copy / "crops" / "car_tight" / "crops.json").is_file()
    assert "Using the generated sample images" in outputs[2]
    (proposed,) = (line for line in outputs[2].splitlines() if line.startswith("Next: "))
    assert "run evaluating" in proposed
    # From inside the bundle's folder the proposed command and the stand-in are the same.
    words = [word.replace("bundles/cityscapes/", "") for word in shlex.split(proposed.removeprefix("Next: python "))]
    done_inside = cityscapes.process(words, copy)
    assert "mean of images" in done_inside.stdout
    assert {path.name for path in (copy / "crops").iterdir()} == {"bus_expansion", "car_tight", "sample_bus_tight"}
