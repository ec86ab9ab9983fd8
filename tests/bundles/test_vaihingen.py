# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses
import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.metrics import DiceMetric
from PIL import Image

from monai_segdiff import DiffusionSegmentor, RespacedDDPMScheduler, generate_vaihingen_sample
from monai_segdiff.exceptions import DatasetError

FOLDER = Path(__file__).parents[2] / "bundles" / "vaihingen"
CONFIGS = FOLDER / "configs"
SIZE = 32
SAMPLING = {"image_size": [SIZE, SIZE], "num_inference_steps": 2, "device": "cpu"}
TRAINING = {"num_training": 4, "num_validation": 1, "max_epochs": 2, "val_interval": 1}


def read(*names: str) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config([str(CONFIGS / f"{name}.json") for name in names])
    return parser


@pytest.fixture(scope="module")
def vaihingen(bundle, tmp_path_factory: pytest.TempPathFactory):
    """The bundle with a tiny network, six pictures of twice its size, and random weights."""
    dataset = generate_vaihingen_sample(tmp_path_factory.mktemp("data"), num_images=6, image_size=2 * SIZE)
    changes = {"folder": FOLDER, "configs": CONFIGS, "sampling": SAMPLING, "training": TRAINING}
    return dataclasses.replace(bundle, dataset=dataset, **changes)


@pytest.fixture(scope="module")
def trained(vaihingen, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished run of two epochs."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    vaihingen.run("train", run_dir=folder)
    return folder


# configs


@pytest.mark.parametrize(
    ("names", "kind"),
    [("train", "train"), ("train evaluate", "eval"), ("train paper", "train"), ("inference", "infer")],
)
def test_properties(vaihingen, tmp_path: Path, names: str, kind: str) -> None:
    paths = {"run_dir": tmp_path / "run"} if "train" in names else {"output_dir": tmp_path / "out"}
    workflow = vaihingen.workflow(names, kind, **vaihingen.settings(names, ckpt=vaihingen.weights, **paths))
    workflow.initialize()
    assert workflow.check_properties() == []
    for name in workflow.properties:
        if name != "_meta_":
            getattr(workflow, name)


def test_normalisation_is_the_released_one() -> None:
    parser = read("train")
    assert parser["image_mean"] == pytest.approx([255 * v for v in (0.47341759, 0.28791303, 0.2850705)], rel=1e-12)
    assert parser["image_std"] == pytest.approx([255 * v for v in (0.22645572, 0.15276193, 0.140702)], rel=1e-12)
    assert parser["image_size"] == [256, 256]


def test_paper_config_is_the_published_method() -> None:
    parser = read("train", "paper")
    parser.update({"device": "cpu"})
    with torch.device("meta"):
        network = parser.get_parsed_content("network_def")
    assert sum(parameter.numel() for parameter in network.parameters()) == 159_838_209
    assert network.size_divisor == 64
    assert {module.p for module in network.modules() if isinstance(module, torch.nn.Dropout) and module.p} == {0.1}
    inferer = parser.get_parsed_content("inferer")
    assert type(inferer.scheduler) is RespacedDDPMScheduler
    assert inferer.scheduler.prediction_type == "epsilon"
    assert inferer.scheduler.timesteps.tolist() == list(range(99, -1, -1))
    assert inferer.num_generations == 9
    assert inferer.windows["roi_size"] is None
    assert parser["images_per_batch"] == 8
    # 80 of the 100 pictures train, in 10 full batches.
    assert parser["max_epochs"] * (80 // 8) == 300_000
    assert parser["val_interval"] * (80 // 8) == 5_000


def test_augmentation_is_the_published_one() -> None:
    parser = read("train", "paper")
    rotate, zoom, jitter, vertical, horizontal = parser.get_parsed_content("train#augmentation")
    assert (rotate.rand_rotate.range_x, rotate.prob) == ((0.0, 2 * torch.pi), 1.0)
    assert (zoom.rand_zoom.min_zoom, zoom.rand_zoom.max_zoom, zoom.prob) == ((0.75,), (1.5,), 1.0)
    assert (rotate.padding_mode, zoom.padding_mode) == (("zeros", "zeros"), ("constant", "constant"))
    amplitudes = (jitter.jitter.brightness, jitter.jitter.contrast, jitter.jitter.saturation, jitter.jitter.hue)
    assert amplitudes == (0.6, 0.5, 0.4, 0.025)
    # Pictures are read with x first: axis 1 is y.
    assert (vertical.flipper.spatial_axis, vertical.prob) == (1, 0.5)
    assert (horizontal.flipper.spatial_axis, horizontal.prob) == (0, 0.5)


def test_augmented_items(vaihingen, tmp_path: Path) -> None:
    settings = vaihingen.settings("train", run_dir=str(tmp_path))
    parser = read("train")
    parser.update(settings)
    (item, *_) = parser.get_parsed_content("datalist")["training"]
    prepare = parser.get_parsed_content("train#preprocessing").set_random_state(0)
    drawn = [prepare(dict(item)) for _ in range(4)]
    for data in drawn:
        assert data["image"].shape == (3, SIZE, SIZE)
        assert data["label"].shape == (1, SIZE, SIZE)
        assert set(data["label"].unique().tolist()) == {0.0, 1.0}
    assert not torch.equal(drawn[0]["label"], drawn[1]["label"])
    areas = [data["label"].mean().item() for data in drawn]
    assert max(areas) > 1.1 * min(areas)


# training, evaluation


def test_files_of_a_run(vaihingen, trained: Path) -> None:
    split = json.loads((trained / "split.json").read_text())
    parts = {part: [entry["name"] for entry in split[part]] for part in ("training", "validation", "test")}
    assert parts == {
        "training": ["building_1", "building_2", "building_3"],
        "validation": ["building_4"],
        "test": ["building_5", "building_6"],
    }
    assert [path.name for path in (trained / "overlays").iterdir()] == ["building_4_overlay.png"]
    assert json.loads((trained / "history.json").read_text())["loss"]["iteration"] == [1, 2]
    settings = json.loads((trained / "model.json").read_text())
    assert settings["image_size"] == [SIZE, SIZE]
    state = torch.load(trained / "model.pt", weights_only=True)
    for name in ("train", "inference"):
        parser = read(name)
        parser.update(vaihingen.settings(name))
        parser.get_parsed_content("network_def").load_state_dict(state, strict=True)


def test_paper_config_trains(vaihingen, tmp_path: Path) -> None:
    small = {"num_inference_steps": 2, "num_generations": 2, "images_per_batch": 2, "checkpoint_interval": 1}
    run = vaihingen.run("train paper", run_dir=tmp_path, **small, max_epochs=1)
    network = run.parser.get_parsed_content("network")
    assert any(isinstance(module, torch.nn.Dropout) and module.p == 0.1 for module in network.modules())
    assert len(json.loads((tmp_path / "history.json").read_text())["loss"]["value"]) == 1


def by_hand(name: str, dataset: Path, run: Any) -> tuple[np.ndarray, np.ndarray]:
    """Probability and true mask at half the size of a generated picture, rows first."""
    picture = np.asarray(Image.open(dataset / "images" / f"{name}.png"), np.float32)[::2, ::2]
    mean, std = (np.asarray(read("train")[key], np.float32) for key in ("image_mean", "image_std"))
    x_first = torch.from_numpy(np.ascontiguousarray(((picture - mean) / std).transpose(2, 1, 0)))
    inferer, network = (run.parser.get_parsed_content(key) for key in ("inferer", "network"))
    mask = np.asarray(Image.open(dataset / "labels" / f"{name}.png")) > 0
    share = mask.reshape(SIZE, 2, SIZE, 2).mean(axis=(1, 3))
    return inferer(x_first[None], network)[0, 0].numpy().T, share >= 0.5


def test_evaluation_of_the_test_part(vaihingen, tmp_path: Path) -> None:
    run = vaihingen.run("train evaluate", ckpt=vaihingen.weights, output_dir=tmp_path)
    report = json.loads((tmp_path / "metrics.json").read_text())
    assert [row["name"] for row in report["images"]] == ["building_5.png", "building_6.png"]
    dice = DiceMetric(ignore_empty=False)
    for name, row in zip(("building_5", "building_6"), report["images"], strict=True):
        probability, truth = by_hand(name, vaihingen.dataset, run)
        mask = probability > 0.5
        value = dice(torch.from_numpy(mask[None, None]), torch.from_numpy(truth[None, None])).item()
        assert 0 < value < 1
        assert row["dice"] == pytest.approx(value, abs=1e-6)
    assert report["mean"]["dice"]["value"] == pytest.approx(dice.aggregate().item(), abs=1e-6)
    assert (report["num_training"], report["num_validation"], report["image_size"]) == (4, 1, [SIZE, SIZE])
    assert report["training_split"] is None


def test_evaluation_knows_the_pictures_of_the_training(vaihingen, trained: Path, tmp_path: Path) -> None:
    vaihingen.run("train evaluate", run_dir=trained, output_dir=tmp_path / "same")
    report = json.loads((tmp_path / "same" / "metrics.json").read_text())
    assert [row["name"] for row in report["images"]] == ["building_5.png", "building_6.png"]
    assert report["training_split"] == str(trained / "split.json")
    with pytest.raises(RuntimeError) as caught:
        vaihingen.run("train evaluate", run_dir=trained, output_dir=tmp_path / "other", num_training=3)
    error: BaseException | None = caught.value
    while not isinstance(error, DatasetError):
        assert error is not None
        error = error.__cause__
    assert f"{trained / 'split.json'}: records 3 images for training; found 2 with num_training=3" in str(error)
    assert not (tmp_path / "other").exists()


def test_stand_in_is_generated_and_divided(vaihingen, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sample = str(tmp_path / "sample_data")
    settings = {**vaihingen.settings("train", run_dir=str(tmp_path / "run")), "dataset_dir": sample}
    settings = {name: value for name, value in settings.items() if name not in TRAINING}
    workflow = vaihingen.workflow("train", **settings, sample_dir=sample)
    workflow.initialize()
    said = capsys.readouterr().out
    assert f"Using the generated sample images in {sample}" in said
    assert len(list((tmp_path / "sample_data" / "images").iterdir())) == 24
    parts = workflow.parser.get_parsed_content("datalist")
    assert [len(entries) for entries in parts.values()] == [10, 4, 10]
    assert workflow.parser.get_parsed_content("max_epochs") == 30


# inference


def test_inference(vaihingen, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run = vaihingen.run("inference", ckpt=vaihingen.weights, output_dir=out)
    kinds = ("mask", "overlay", "probability")
    names = [f"building_{n}" for n in range(1, 7)]
    assert sorted(path.name for path in out.iterdir()) == [f"{name}_{kind}.png" for name in names for kind in kinds]
    mask, _, probability = (np.asarray(Image.open(out / f"building_5_{kind}.png")) for kind in kinds)
    assert mask.shape == probability.shape == (2 * SIZE, 2 * SIZE)
    assert set(np.unique(mask)) == {0, 255}
    small = torch.from_numpy(by_hand("building_5", vaihingen.dataset, run)[0])[None, None]
    expected = 255 * torch.nn.functional.interpolate(small, scale_factor=2, mode="bilinear")[0, 0].numpy()
    assert np.abs(probability - expected).max() <= 1.0
    clear = np.abs(expected - 127.5) > 1
    assert np.array_equal(mask[clear] == 255, expected[clear] > 127.5)


def test_pictures_of_other_shapes(vaihingen, tmp_path: Path) -> None:
    """A picture that is not square is squeezed for the network, and its mask is given at the picture's own size."""
    rows, columns = np.mgrid[:80, :200]
    ramp = np.stack([rows, columns, 0 * rows], axis=-1).astype(np.uint8)
    Image.fromarray(ramp).save(tmp_path / "wide.png")
    parser = read("inference")
    parser.update(vaihingen.settings("inference"))
    data = parser.get_parsed_content("preprocessing")({"image": str(tmp_path / "wide.png")})
    assert data["image"].shape == (3, SIZE, SIZE)
    mean, std = (torch.tensor(parser[key])[:, None, None] for key in ("image_mean", "image_std"))
    data["pred"] = data["image"] * std + mean
    back = parser.get_parsed_content("resize_to_picture")(data)["pred"]
    assert back.shape == (3, 200, 80)
    # Nearest neighbours are off by up to one pixel of the small picture: 80 / 32 rows, 200 / 32 columns.
    assert np.abs(back[0].numpy().T - rows).max() <= 80 / SIZE
    assert np.abs(back[1].numpy().T - columns).max() <= 200 / SIZE


def test_parts_that_monai_label_takes(vaihingen) -> None:
    parser = read("inference")
    parser.update(vaihingen.settings("inference"))
    network = parser.get_parsed_content("network_def")
    network.load_state_dict(torch.load(vaihingen.weights, weights_only=True))
    data = parser.get_parsed_content("preprocessing")({"image": str(vaihingen.dataset / "images" / "building_1.png")})
    segmentor = DiffusionSegmentor(network, parser.get_parsed_content("inferer")).eval()
    data["pred"] = segmentor(data["image"][None])[0]
    mask = np.asarray(parser.get_parsed_content("post_transforms")(data)["pred"])
    assert mask.shape == (2 * SIZE, 2 * SIZE)
    assert set(np.unique(mask)) == {0, 1}


# command lines


@pytest.mark.end_to_end
def test_commands_of_the_readme(vaihingen, tmp_path: Path) -> None:
    """Each in a process, on few pictures, with the tiny network as the default of a copy of the bundle."""
    copy = tmp_path / "bundles" / "vaihingen"
    shutil.copytree(CONFIGS, copy / "configs")
    tiny = {name.partition("#")[2]: value for name, value in vaihingen.settings("").items() if "#" in name}
    for name in ("train", "inference"):
        path = copy / "configs" / f"{name}.json"
        config = json.loads(path.read_text())
        config |= SAMPLING | (TRAINING if name == "train" else {})
        config["network_def"] |= tiny
        path.write_text(json.dumps(config))
    (tmp_path / "pictures").mkdir()
    shutil.copy(vaihingen.dataset / "images" / "building_3.png", tmp_path / "pictures" / "one.png")
    run = Path("bundles", "vaihingen", "runs", "vaihingen")
    values = {"FOLDER": str(vaihingen.dataset), "IMAGES": "pictures", "OUT": "out", "RUN/model.pt": f"{run}/model.pt"}
    blocks = re.findall(r"^```\n(.*?)\n```$", (FOLDER / "docs" / "README.md").read_text(), flags=re.M | re.S)
    commands = [shlex.split(block) for block in blocks]
    assert [words[4] for words in commands] == ["training", "training", "evaluating", "inference"]
    outputs = []
    for words in (words for words in commands if "--dataset_dir" in words):
        assert words[0] == "python"
        outputs.append(vaihingen.process([values.get(word, word) for word in words[1:]], tmp_path).stdout)
    (proposed,) = (line for line in outputs[0].splitlines() if line.startswith("Next: "))
    assert proposed.endswith(f"--dataset_dir {vaihingen.dataset} --run_dir {run}")
    report = json.loads((tmp_path / run / "evaluation" / "metrics.json").read_text())
    assert [row["name"] for row in report["images"]] == ["building_5.png", "building_6.png"]
    assert report["training_split"] == str(run / "split.json")
    names = ["one_mask.png", "one_overlay.png", "one_probability.png"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
