# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import csv
import hashlib
import importlib
import inspect
import json
import pkgutil
import shlex
import shutil
from pathlib import Path
from typing import Any

import monai.bundle
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.bundle.config_item import ComponentLocator
from monai.fl.client import MonaiAlgo
from monai.fl.utils.constants import ExtraItems
from monai.fl.utils.exchange_object import ExchangeObject
from monai.metrics import DiceMetric
from PIL import Image

import monai_segdiff
from monai_segdiff import RespacedDDPMScheduler, SegDiffUNet, load_weights

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "bundles" / "monuseg" / "configs"
SCHEMA = Path(__file__).with_name("metadata_schema.json")


def read(*names: str) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config([str(CONFIGS / f"{name}.json") for name in names])
    parser.read_meta(str(CONFIGS / "metadata.json"))
    return parser


# metadata


@pytest.mark.parametrize(
    "change",
    [
        lambda meta: meta.pop("version"),
        lambda meta: meta.update(version=1),
        lambda meta: meta.update(changelog={}),
        lambda meta: meta.pop("network_data_format"),
        lambda meta: meta["network_data_format"].pop("outputs"),
        lambda meta: meta["network_data_format"]["inputs"].pop("image"),
        lambda meta: meta["network_data_format"]["inputs"]["image"].update(num_channels="3"),
        lambda meta: meta["network_data_format"]["outputs"]["pred"].update(dtype="float"),
        lambda meta: meta["network_data_format"]["outputs"]["pred"].update(spatial_shape=["any"]),
    ],
)
def test_schema_refuses_other_metadata(tmp_path: Path, change: Any) -> None:
    metadata = json.loads((CONFIGS / "metadata.json").read_text())
    change(metadata)
    digest = hashlib.sha256(SCHEMA.read_bytes()).hexdigest()
    (tmp_path / "metadata.json").write_text(json.dumps(metadata))
    with pytest.raises(ValueError, match="Failed validating"):
        monai.bundle.verify_metadata(
            meta_file=str(tmp_path / "metadata.json"), filepath=str(SCHEMA), hash_val=digest, hash_type="sha256"
        )


# configs


@pytest.mark.parametrize(
    ("names", "kind"),
    [("train", "train"), ("train evaluate", "eval"), ("train paper", "train"), ("inference", "infer")],
)
def test_properties(bundle, tmp_path: Path, names: str, kind: str) -> None:
    paths = {"run_dir": tmp_path / "run"} if "train" in names else {"output_dir": tmp_path / "out"}
    workflow = bundle.workflow(names, kind, **bundle.settings(names, ckpt=bundle.weights, **paths))
    workflow.initialize()
    assert workflow.check_properties() == []
    for name in workflow.properties:
        if name != "_meta_":
            getattr(workflow, name)  # every property that there is can be built


def test_identifiers_that_others_read() -> None:
    """MONAI Label, the model zoo and federated clients look for these."""
    train, evaluate, inference = read("train"), read("train", "evaluate"), read("inference")
    for parser in (train, evaluate, inference):
        for name in ("bundle_root", "device", "dataset_dir", "network_def", "network", "inferer", "initialize", "run"):
            assert name in parser, name
    for name in (
        "train#trainer#max_epochs",
        "train#dataset#data",
        "train#handlers",
        "train#preprocessing",
        "validate#dataset#data",
        "validate#evaluator",
        "val_interval",
        "training",
    ):
        assert name in train, name
    assert isinstance(train["train#handlers"], list)
    for handler in train["train#handlers"]:
        assert isinstance(handler, dict), handler
        assert isinstance(handler["_target_"], str), handler
    assert "ValidationHandler" in [handler["_target_"] for handler in train["train#handlers"]]
    for name in ("dataset", "evaluator", "evaluating"):
        assert name in evaluate, name
    for name in (
        "output_dir",
        "preprocessing",
        "postprocessing",
        "post_transforms",
        "displayable_configs",
        "inference",
    ):
        assert name in inference, name


def test_bare_names_are_found_after_the_import() -> None:
    network = {"_target_": "SegDiffUNet", "spatial_dims": 2, "image_channels": 3, "mask_channels": 1}
    levels = {"channels": [32, 32], "attention_levels": [False, False], "num_res_blocks": 1, "num_rrdb_blocks": 1}
    parser = ConfigParser({"imports": ["$import monai_segdiff"], "network": {**network, **levels}})
    parser.parse()
    assert type(parser.get_parsed_content("network")) is SegDiffUNet


def public_names() -> dict[str, Any]:
    found = {}
    for module in pkgutil.iter_modules(monai_segdiff.__path__):
        package = importlib.import_module(f"monai_segdiff.{module.name}")
        # Commands have names of their own, which nobody gives as a _target_.
        found |= {name: getattr(package, name) for name in package.__all__ if hasattr(monai_segdiff, name)}
    return found


def test_no_name_collides_with_monai() -> None:
    locator = ComponentLocator()
    names = public_names()
    assert len(names) > 30
    for name, item in names.items():
        assert inspect.isclass(item) or inspect.isfunction(item), name
        where = locator.get_component_module_name(name)
        assert isinstance(where, str), f"{name} is in {where}"
        assert where.startswith("monai_segdiff."), f"{name} is MONAI's {where}"


def test_training_and_inference_prepare_images_alike(bundle) -> None:
    image = str(bundle.dataset / "images" / "sample_000.png")
    label = str(bundle.dataset / "labels" / "sample_000.png")
    results = []
    for names, preprocessing in (("train", "validate#preprocessing"), ("inference", "preprocessing")):
        parser = read(names)
        parser.update({"device": "cpu", "image_scale": 0.512})
        item = parser.get_parsed_content(preprocessing)({"image": image, "label": label})
        results.append(item["image"])
    assert results[0].shape == (3, 65, 65)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0].affine, results[1].affine)


def test_paper_config_is_the_published_method() -> None:
    parser = read("train", "paper")
    parser.update({"device": "cpu"})
    with torch.device("meta"):
        network = parser.get_parsed_content("network_def")
    assert sum(parameter.numel() for parameter in network.parameters()) == 164_154_753
    inferer = parser.get_parsed_content("inferer")
    scheduler = inferer.scheduler
    assert type(scheduler) is RespacedDDPMScheduler
    assert scheduler.prediction_type == "epsilon"
    assert scheduler.timesteps.tolist() == list(range(99, -1, -1))
    assert scheduler.variance_type == "fixed_large"
    assert scheduler.clip_sample is False
    assert inferer.num_generations == 9
    windows = {"roi_size": 256, "overlap": 0.0, "mode": "constant"}
    assert {name: inferer.windows[name] for name in windows} == windows
    assert parser["learning_rate"] == 2e-5
    assert parser["ema_momentum"] == 1e-4


def test_paper_config_trains(bundle, tmp_path: Path) -> None:
    small = {"num_inference_steps": 2, "num_generations": 2, "images_per_batch": 2, "checkpoint_interval": 1}
    run = bundle.run("train paper", run_dir=tmp_path, **small)
    assert {group["lr"] for group in run.parser.get_parsed_content("optimizer").param_groups} == {2e-5}
    assert run.parser.get_parsed_content("train#trainer").state.ema_momentum == 1e-4
    history = json.loads((tmp_path / "history.json").read_text())
    assert history["loss"]["iteration"] == [1, 2]
    bundle.run("train paper", run_dir=tmp_path, resume=True, max_epochs=3, **small)
    assert json.loads((tmp_path / "history.json").read_text())["loss"]["iteration"] == [1, 2, 3]


# training


def test_files_of_a_run(trained: Path) -> None:
    names = {path.name for path in trained.iterdir()}
    assert names == {
        "checkpoint.pt",
        "model.pt",
        "model.json",
        "split.json",
        "history.json",
        "curves.png",
        "overlays",
        "tensorboard",
    }
    split = json.loads((trained / "split.json").read_text())
    assert (len(split["training"]), len(split["validation"])) == (3, 1)
    overlays = sorted(path.name for path in (trained / "overlays").iterdir())
    assert overlays == [f"{entry['name']}_overlay.png" for entry in split["validation"]]
    for path in [*trained.glob("*.png"), *trained.glob("overlays/*.png")]:
        with Image.open(path) as picture:
            picture.load()
            assert min(picture.size) >= 128
    history = json.loads((trained / "history.json").read_text())
    assert history["loss"]["iteration"] == [1, 2]
    assert history["validation"]["epoch"] == [1, 2]
    assert list((trained / "tensorboard").glob("events.out.tfevents.*"))
    checkpoint = torch.load(trained / "checkpoint.pt", weights_only=True)
    assert checkpoint["trainer"] == {"epoch": 2, "iteration": 2}


@pytest.mark.parametrize("name", ["train", "inference"])
def test_model_loads_into_the_configured_network(bundle, trained: Path, name: str) -> None:
    parser = read(name)
    parser.update(bundle.settings(name))
    network = parser.get_parsed_content("network_def")
    state = torch.load(trained / "model.pt", weights_only=True)
    network.load_state_dict(state, strict=True)
    assert {value.device.type for value in state.values()} == {"cpu"}


def test_model_is_the_averaged_network(bundle, trained: Path) -> None:
    model = torch.load(trained / "model.pt", weights_only=True)
    checkpoint = torch.load(trained / "checkpoint.pt", weights_only=True)
    best = checkpoint["evaluator"]["best_metric_epoch"]
    assert best in (1, 2)
    if best == 2:
        assert all(torch.equal(model[name], value) for name, value in checkpoint["ema"].items())
    assert any(not torch.equal(checkpoint["network"][name], value) for name, value in checkpoint["ema"].items())


@pytest.mark.filterwarnings("ignore:parsing config_file:UserWarning")
def test_load_by_name(bundle, copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = copied / "bundles" / "monuseg" / "models" / "model.pt"
    model.parent.mkdir(exist_ok=True)
    shutil.copy(bundle.weights, model)
    monkeypatch.chdir(copied)
    arguments = {"bundle_dir": "bundles", "workflow_type": "inference", "device": "cpu", "source": "github"}
    network = monai.bundle.load("monuseg", version="0.1.0", **arguments)
    assert type(network) is SegDiffUNet
    expected = torch.load(bundle.weights, weights_only=True)
    assert all(torch.equal(value, expected[name]) for name, value in network.state_dict().items())
    wider = monai.bundle.load("monuseg", version="0.1.0", net_override={"num_res_blocks": 2}, **arguments)
    assert len(wider.state_dict()) > len(expected)


# evaluation


def by_hand(picture: np.ndarray, inferer: Any, network: torch.nn.Module) -> np.ndarray:
    """Probability, rows first, of an RGB picture at the scale of the network."""
    mean, std = (read("train")[name] for name in ("image_mean", "image_std"))
    image = (picture.astype(np.float32) - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)
    x_first = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 1, 0)))
    return inferer(x_first[None], network)[0, 0].numpy().T


def test_evaluation(bundle, tmp_path: Path) -> None:
    run = bundle.run("train evaluate", ckpt=bundle.weights, output_dir=tmp_path)
    report = json.loads((tmp_path / "metrics.json").read_text())
    names = [f"sample_{i:03d}" for i in range(4)]
    assert [row["name"] for row in report["images"]] == [f"{name}.png" for name in names]
    inferer, network = (run.parser.get_parsed_content(name) for name in ("inferer", "network"))
    dice = DiceMetric(ignore_empty=False)
    for name, row in zip(names, report["images"], strict=True):
        picture = np.asarray(Image.open(bundle.dataset / "images" / f"{name}.png"))
        truth = np.asarray(Image.open(bundle.dataset / "labels" / f"{name}.png")) > 0
        mask = by_hand(picture, inferer, network) > 0.5
        assert 0.05 < mask.mean() < 0.95
        value = dice(torch.from_numpy(mask[None, None]), torch.from_numpy(truth[None, None])).item()
        assert 0 < value < 1
        assert row["dice"] == pytest.approx(value, abs=1e-6)
        assert row["tp"] == np.count_nonzero(mask & truth)
    assert report["mean"]["dice"]["value"] == pytest.approx(dice.aggregate().item(), abs=1e-6)
    assert run.parser.get_parsed_content("evaluator").state.metrics["val_mean_dice"] == pytest.approx(
        report["mean"]["dice"]["value"], abs=1e-6
    )
    assert report["checkpoint"] == str(bundle.weights)
    assert report["dataset_dir"] == str(bundle.dataset)
    assert (report["num_inference_steps"], report["window_size"], report["seed"]) == (2, 64, 0)
    with open(tmp_path / "metrics.csv", newline="") as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    assert float(rows["mean"]["dice"]) == report["mean"]["dice"]["value"]
    assert sorted(path.name for path in (tmp_path / "overlays").iterdir()) == [f"{name}_overlay.png" for name in names]


def test_images_of_the_training_are_not_evaluated(bundle, trained: Path, tmp_path: Path) -> None:
    bundle.run("train evaluate", run_dir=trained, output_dir=tmp_path)
    split = json.loads((trained / "split.json").read_text())
    evaluated = {row["name"] for row in json.loads((tmp_path / "metrics.json").read_text())["images"]}
    assert evaluated == {f"{entry['name']}.png" for entry in split["validation"]}
    assert evaluated.isdisjoint(f"{entry['name']}.png" for entry in split["training"])


def test_evaluation_leaves_the_training_run_alone(bundle, trained: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*") if path.is_file()}
    bundle.run("train evaluate", run_dir=trained)
    after = {path: path.stat().st_mtime_ns for path in trained.rglob("*") if path.is_file()}
    new = {path.relative_to(trained).parts[0] for path in after.keys() - before.keys()}
    assert new == {"evaluation"}
    assert all(after[path] == time for path, time in before.items())
    shutil.rmtree(trained / "evaluation")


# inference


@pytest.fixture
def pictures(tmp_path: Path) -> dict[str, np.ndarray]:
    """A folder of pictures of several kinds and sizes; what RGB they hold."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    found = {}
    for name, mode, (width, height) in (
        ("a.png", "RGB", (97, 61)),
        ("b.png", "RGBA", (40, 70)),
        ("c.jpg", "RGB", (90, 50)),
    ):
        rough = rng.integers(60, 255, (height // 10 + 1, width // 10 + 1, 3), dtype=np.uint8)
        picture = Image.fromarray(rough).resize((width, height), Image.Resampling.BICUBIC)
        if mode == "RGBA":
            picture.putalpha(200)
        picture.save(folder / name)
        with Image.open(folder / name) as saved:
            found[name[0]] = np.asarray(saved)[..., :3]
    return found


def test_inference(bundle, pictures: dict[str, np.ndarray], tmp_path: Path) -> None:
    out = tmp_path / "out"
    run = bundle.run("inference", dataset_dir=tmp_path / "pictures", ckpt=bundle.weights, output_dir=out)
    kinds = ("mask", "overlay", "probability")
    assert sorted(path.name for path in out.iterdir()) == [f"{name}_{kind}.png" for name in "abc" for kind in kinds]
    inferer, network = (run.parser.get_parsed_content(name) for name in ("inferer", "network"))
    for name, picture in pictures.items():
        mask, overlay, probability = (np.asarray(Image.open(out / f"{name}_{kind}.png")) for kind in kinds)
        assert mask.shape == probability.shape == picture.shape[:2]
        assert overlay.shape == picture.shape
        assert mask.dtype == probability.dtype == np.uint8
        assert set(np.unique(mask)) == {0, 255}
        expected = by_hand(picture, inferer, network)
        assert np.abs(probability - 255 * expected).max() <= 1.0
        clear = np.abs(expected - 0.5) > 1e-3
        assert clear.mean() > 0.9
        assert np.array_equal(mask[clear] == 255, expected[clear] > 0.5)


def test_inference_at_another_scale(bundle, pictures: dict[str, np.ndarray], tmp_path: Path) -> None:
    """Sizes that no level of the network divides, windows larger than the image, results at the picture's size."""
    out = tmp_path / "out"
    bundle.run(
        "inference",
        dataset_dir=tmp_path / "pictures",
        ckpt=bundle.weights,
        output_dir=out,
        image_scale=0.512,
        window_size=256,
    )
    for name, picture in pictures.items():
        for kind in ("mask", "probability", "overlay"):
            with Image.open(out / f"{name}_{kind}.png") as result:
                assert result.size == picture.shape[1::-1]


def test_inference_is_reproducible(bundle, pictures: dict[str, np.ndarray], tmp_path: Path) -> None:
    for out in ("one", "two"):
        bundle.run("inference", dataset_dir=tmp_path / "pictures", ckpt=bundle.weights, output_dir=tmp_path / out)
    bundle.run(
        "inference", dataset_dir=tmp_path / "pictures", ckpt=bundle.weights, output_dir=tmp_path / "three", seed=1
    )
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
    name = "a_probability.png"
    assert (tmp_path / "one" / name).read_bytes() != (tmp_path / "three" / name).read_bytes()


def test_parts_that_monai_label_takes(bundle, pictures: dict[str, np.ndarray], tmp_path: Path) -> None:
    """By their names, as a server uses them, without dataset and evaluator."""
    parser = read("inference")
    parser.update(bundle.settings("inference", ckpt=str(bundle.weights)))
    network = parser.get_parsed_content("network_def")
    network.load_state_dict(torch.load(bundle.weights, weights_only=True))
    data = parser.get_parsed_content("preprocessing")({"image": str(tmp_path / "pictures" / "a.png")})
    inferer = parser.get_parsed_content("inferer")
    data["pred"] = inferer(data["image"][None], network)[0]
    mask = np.asarray(parser.get_parsed_content("post_transforms")(data)["pred"])
    assert mask.shape == (97, 61)
    assert set(np.unique(mask)) == {0, 1}
    expected = by_hand(pictures["a"], inferer, network)
    clear = np.abs(expected - 0.5) > 1e-3
    assert np.array_equal(mask.T[clear] == 1, expected[clear] > 0.5)


# other programs


@pytest.mark.filterwarnings("ignore:executing the bundle config:UserWarning")
def test_round_of_federated_learning(bundle, tmp_path: Path) -> None:
    algo = MonaiAlgo(
        bundle_root=str(bundle.folder),
        send_weight_diff=False,
        train_kwargs=bundle.settings("train", run_dir=str(tmp_path), warmup_iterations=0),
        eval_kwargs=bundle.settings("train", ckpt=str(bundle.weights), output_dir=str(tmp_path / "evaluation")),
    )
    algo.initialize(extra={ExtraItems.CLIENT_NAME: "one"})
    weights = algo.get_weights().weights
    sent = {name: torch.as_tensor(value).clone() for name, value in weights.items()}
    assert sent.keys() == torch.load(bundle.weights, weights_only=True).keys()
    algo.train(ExchangeObject(weights={name: value.numpy() for name, value in sent.items()}))
    returned = algo.get_weights().weights
    assert algo.trainer.state.epoch == 1
    assert any(not torch.equal(torch.as_tensor(returned[name]), value) for name, value in sent.items())


@pytest.mark.filterwarnings("ignore:executing the bundle config:UserWarning")
def test_federated_evaluation_uses_the_weights_sent(bundle, tmp_path: Path) -> None:
    algo = MonaiAlgo(
        bundle_root=str(bundle.folder),
        config_train_filename=None,
        eval_kwargs=bundle.settings("train", ckpt=str(bundle.weights), output_dir=str(tmp_path), run_dir=str(tmp_path)),
    )
    algo.initialize(extra={ExtraItems.CLIENT_NAME: "one"})
    file = torch.load(bundle.weights, weights_only=True)
    algo.evaluate(ExchangeObject(weights={name: 2 * value.numpy() for name, value in file.items()}))
    used = algo.evaluator.network.state_dict()
    assert all(torch.equal(value, 2 * file[name]) for name, value in used.items())


# command lines


def next_command(output: str) -> list[str]:
    """The command that a run proposes, without its program."""
    (line,) = (line for line in output.splitlines() if line.startswith("Next: "))
    words = shlex.split(line.removeprefix("Next: "))
    assert words[0] == "python"
    return words[1:]


@pytest.mark.end_to_end
def test_quick_start(bundle, copied: Path) -> None:
    """Training without any data, then each command that the one before proposes."""
    words = ["-m", "monai.bundle", "run", "training", "--config_file", "bundles/monuseg/configs/train.json"]
    done = bundle.process(words, copied)
    assert "training: 100%" in done.stderr
    assert "Dice=" in done.stderr
    assert "Using the generated sample images" in done.stdout
    folder = copied / "bundles" / "monuseg"
    assert (folder / "runs" / "sample" / "model.pt").is_file()

    done = bundle.process(next_command(done.stdout), copied)
    assert "evaluating: 100%" in done.stderr
    assert "mean of images" in done.stdout
    assert len(json.loads((folder / "runs" / "sample" / "evaluation" / "metrics.json").read_text())["images"]) == 4

    (copied / "two pictures").mkdir()
    for i in range(2):
        shutil.copy(folder / "sample_data" / "images" / f"sample_{i:03d}.png", copied / "two pictures")
    words = [word.replace("FOLDER_OF_IMAGES", "two pictures") for word in next_command(done.stdout)]
    done = bundle.process(words, copied)
    assert "segmenting: 100%" in done.stderr
    assert len(list((folder / "output").glob("*_mask.png"))) == 2


@pytest.mark.end_to_end
def test_next_command_after_training_elsewhere(bundle, tmp_path: Path) -> None:
    run = tmp_path / "my run"
    done = bundle.process(["-m", "monai.bundle", *bundle.words("training", "train", run_dir=run)])
    done = bundle.process(next_command(done.stdout))
    report = json.loads((run / "evaluation" / "metrics.json").read_text())
    assert (report["num_images"], report["num_inference_steps"], report["window_size"]) == (1, 2, 64)
    proposed = next_command(done.stdout)
    assert proposed[: proposed.index("--config_file") + 2] == [
        "-m",
        "monai.bundle",
        "run",
        "inference",
        "--config_file",
        str(CONFIGS / "inference.json"),
    ]
    options = dict(zip(proposed[6::2], proposed[7::2], strict=True))
    assert options["--ckpt"] == str(run / "model.pt")
    assert options["--dataset_dir"] == "FOLDER_OF_IMAGES"
    assert options["--network_def#channels"] == "[32, 32]"
    assert options["--window_size"] == "64"
    assert "--crop_size" not in options


@pytest.mark.end_to_end
@pytest.mark.parametrize(("run_id", "names"), [("evaluating", "train evaluate"), ("inference", "inference")])
def test_from_inside_the_bundle(bundle, tmp_path: Path, run_id: str, names: str) -> None:
    words = bundle.words(run_id, names, ckpt=bundle.weights, output_dir=tmp_path)
    files = [f"configs/{name}.json" for name in names.split()]
    words[words.index("--config_file") + 1] = str(files) if len(files) > 1 else files[0]
    bundle.process(["-m", "monai.bundle", *words], bundle.folder)
    assert (tmp_path / ("metrics.json" if run_id == "evaluating" else "sample_000_mask.png")).is_file()


# released weights


def test_released_weights(bundle) -> None:
    models = bundle.folder / "models"
    state = torch.load(models / "model.pt", weights_only=True)
    assert (models / "model.pt").stat().st_size < 40e6
    assert all(value.isfinite().all() for value in state.values())
    for name in ("train", "inference"):
        parser = read(name)
        load_weights(
            parser.get_parsed_content("network_def"),
            models / "model.pt",
            parser.get_parsed_content("model_settings"),
        )
    split = json.loads((models / "split.json").read_text())
    assert len(split["training_sha256"]) == len(split["training"])
    assert not any(Path(entry["image"]).is_absolute() for entry in split["training"] + split["validation"])
