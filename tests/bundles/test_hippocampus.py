# SPDX-License-Identifier: Apache-2.0
"""The bundle of volumes. What it shares with that of nuclei is tested in test_two_stages.py."""

from __future__ import annotations

import copy
import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.metrics import DiceMetric, compute_surface_dice
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform
from PIL import Image
from scipy.spatial.transform import Rotation

from monai_segdiff import DiffusionSegmentor

ROOT = Path(__file__).parents[2]
NAMES = [f"hippocampus_{n:03d}" for n in (1, 2, 3)]
Triple = tuple[float, float, float]


def read(bundle, *names: str) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config(bundle.files(" ".join(names)))
    parser.update(bundle.settings(" ".join(names)))
    return parser


def parts(run: Any) -> list[Any]:
    inferer, network = (run.parser.get_parsed_content(name) for name in ("inferer", "network"))
    return [inferer, network.eval()]  # evaluators put it back into training mode


def by_hand(path: Path, inferer: Any, network: torch.nn.Module) -> torch.Tensor:
    """Class probabilities ``[K, X, Y, Z]``, on the voxels of a file of 1 mm whose axes need no new order."""
    voxels = torch.from_numpy(np.asarray(nib.load(path).dataobj, np.float32))
    return inferer(((voxels - voxels.mean()) / voxels.std(correction=0))[None, None], network)[0]


# evaluation


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")
def test_evaluation(hippocampus, tmp_path: Path) -> None:
    run = hippocampus.run("train evaluate", ckpt=hippocampus.weights, output_dir=tmp_path)
    report = json.loads((tmp_path / "metrics.json").read_text())
    assert [row["name"] for row in report["images"]] == [f"{name}.nii.gz" for name in NAMES]
    dice = DiceMetric(include_background=False, ignore_empty=False, num_classes=3, reduction="none")
    for name, row in zip(NAMES, report["images"], strict=True):
        probability = by_hand(hippocampus.dataset / "imagesTr" / f"{name}.nii.gz", *parts(run))
        pred = probability.argmax(dim=0)
        truth = torch.from_numpy(np.asarray(nib.load(hippocampus.dataset / "labelsTr" / f"{name}.nii.gz").dataobj))
        assert set(pred.unique().tolist()) == {0, 1, 2}
        (values,) = dice(pred[None, None], truth[None, None].long()).tolist()
        found = [row["dice_anterior"], row["dice_posterior"]]
        assert found == pytest.approx(values, abs=1e-6)
        assert row["dice"] == pytest.approx(sum(values) / 2, abs=1e-6)
        one_hot = [torch.stack([labels == k for k in range(3)])[None] for labels in (pred, truth)]
        surfaces = compute_surface_dice(*one_hot, class_thresholds=[1.0, 1.0], spacing=[1.0, 1.0, 1.0])[0].tolist()
        found = [row["surface_dice_anterior"], row["surface_dice_posterior"]]
        assert found == pytest.approx(surfaces, abs=1e-3)
        likelihood = -probability.gather(0, truth[None].long()).log().mean().item()
        assert row["negative_log_likelihood"] == pytest.approx(likelihood, rel=1e-4)
    scores = ["dice", "iou", "surface_dice", "hd95", "boundary_iou"]
    scores = [name for score in scores for name in (score, f"{score}_anterior", f"{score}_posterior")]
    calibration = ["expected_calibration_error", "negative_log_likelihood", "brier_score"]
    assert list(report["mean"]) == scores + calibration
    metric = run.parser.get_parsed_content("evaluator").state.metrics["val_mean_dice"]
    assert metric == pytest.approx(report["mean"]["dice"]["value"], abs=1e-6)
    assert (report["voxel_spacing"], report["num_inference_steps"], report["start"]) == ([1.0] * 3, 3, "noise")
    assert {path.name for path in tmp_path.iterdir()} == {"metrics.csv", "metrics.json", "overlays", "reliability.png"}
    assert sorted(path.name for path in (tmp_path / "overlays").iterdir()) == [f"{n}_overlay.png" for n in NAMES]
    for path in tmp_path.glob("overlays/*.png"):
        with Image.open(path) as picture:
            picture.load()
            assert picture.width > picture.height > 200, "three slices beside each other"


def test_evaluation_with_uncertainty(hippocampus, tmp_path: Path) -> None:
    options = {"uncertainty": "true", "num_generations": 3}
    run = hippocampus.run("train evaluate", ckpt=hippocampus.weights, output_dir=tmp_path, **options)
    report = json.loads((tmp_path / "metrics.json").read_text())
    inferer, network = parts(run)
    (item, *_), (row, *_) = run.parser.get_parsed_content("validate#dataset"), report["images"]
    statistics = inferer.statistics(item["image"].as_tensor()[None], network)
    dice = DiceMetric(include_background=False, ignore_empty=False, num_classes=3)
    dice(statistics.mean.argmax(dim=1, keepdim=True), item["label"].as_tensor()[None])
    assert row["dice"] == pytest.approx(dice.aggregate().item(), abs=1e-6)
    for name in ("entropy", "mutual_information"):
        assert 0 < row[f"auroc_{name}"] < 1
        assert 0 < row[f"aurc_{name}"] < 1
    assert (tmp_path / "risk_coverage.png").is_file()


# inference


def affine(axes: str, shape: Triple, spacing: Triple = (1, 1, 1), angles: Triple = (0, 0, 0)) -> np.ndarray:
    """Give the affine of a grid whose voxel axes point to ``axes`` before they are turned (degrees)."""
    flips = inv_ornt_aff(ornt_transform(io_orientation(np.eye(4)), axcodes2ornt(axes)), shape)
    result = np.eye(4)
    result[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() @ flips[:3, :3] * spacing
    result[:3, 3] = (-31.7, 12.3, 4.9)
    return result


def volume(path: Path, shape: Triple, grid: np.ndarray, sform: int, qform: int) -> nib.Nifti1Image:
    """Write and read back a rough volume of integers."""
    voxels = np.random.default_rng(0).integers(0, 900, shape).astype(np.int16)
    image = nib.Nifti1Image(voxels, None)
    image.set_sform(grid, code=sform)
    image.set_qform(grid, code=qform)
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, path)
    return nib.load(path)


def assert_same_place(found: nib.Nifti1Image, expected: nib.Nifti1Image) -> None:
    assert found.shape == expected.shape
    assert np.array_equal(found.affine, expected.affine)
    assert np.array_equal(found.get_qform(), expected.get_qform())
    for name in ("sform_code", "qform_code", "srow_x", "srow_y", "srow_z", "quatern_b", "quatern_c", "quatern_d"):
        assert np.array_equal(found.header[name], expected.header[name]), name
    assert found.header.get_zooms() == expected.header.get_zooms()
    assert found.header.get_xyzt_units() == expected.header.get_xyzt_units()


# Name: size, axes, spacing, angles, codes of sform and qform.
VOLUMES: dict[str, tuple[Triple, str, Triple, Triple, int, int]] = {
    "plain": ((18, 21, 13), "RAS", (1, 1, 1), (0, 0, 0), 1, 1),
    "flipped": ((18, 21, 13), "LPS", (1, 1, 1), (0, 0, 0), 4, 0),
    "turned": ((13, 18, 21), "SRA", (1, 1, 1), (0, 0, 0), 0, 2),
    "oblique": ((18, 21, 13), "PIR", (1, 1, 1), (7, -11, 23), 1, 1),
    "anisotropic": ((18, 21, 8), "RAS", (1, 1, 2.5), (0, 0, 0), 2, 1),
    "fine_and_coarse": ((20, 16, 9), "LAS", (0.6, 1.3, 2.2), (12, 5, -31), 1, 1),
    "small": ((5, 9, 4), "RAS", (1, 1, 1), (0, 0, 0), 1, 1),
    "one_slice": ((17, 11, 1), "ASL", (1, 1, 1), (0, 0, 0), 1, 1),
}


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, nib.Nifti1Image]:
    folder = tmp_path_factory.mktemp("volumes")
    return {
        name: volume(folder / f"{name}.nii.gz", shape, affine(axes, shape, spacing, angles), sform, qform)
        for name, (shape, axes, spacing, angles, sform, qform) in VOLUMES.items()
    }


def folder_of(volumes: dict[str, nib.Nifti1Image]) -> Path:
    return Path(volumes["plain"].get_filename()).parent


@pytest.fixture(scope="module")
def segmented(hippocampus, volumes, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """Folder of the label maps of all volumes, and what made them."""
    out = tmp_path_factory.mktemp("out")
    run = hippocampus.run("inference", dataset_dir=folder_of(volumes), ckpt=hippocampus.weights, output_dir=out)
    assert {path.name for path in out.iterdir()} == {f"{name}_seg.nii.gz" for name in VOLUMES}
    return out, run


@pytest.mark.parametrize("name", VOLUMES)
def test_label_maps_lie_where_their_volumes_lie(volumes, segmented: tuple[Path, Any], name: str) -> None:
    out, run = segmented
    found = nib.load(out / f"{name}_seg.nii.gz")
    assert_same_place(found, volumes[name])
    labels = np.asarray(found.dataobj)
    assert labels.dtype == np.uint8
    assert set(np.unique(labels)) <= {0, 1, 2}
    spacing = VOLUMES[name][2]
    if spacing == (1, 1, 1):  # else they are resampled
        voxels = nib.as_closest_canonical(volumes[name])
        image = torch.from_numpy(np.asarray(voxels.dataobj, np.float32))
        inferer, network = parts(run)
        pred = inferer(((image - image.mean()) / image.std(correction=0))[None, None], network)[0].argmax(dim=0)
        canonical = nib.Nifti1Image(labels, found.affine)
        assert np.array_equal(np.asarray(nib.as_closest_canonical(canonical).dataobj), pred.numpy())
        assert name in ("small", "one_slice") or set(np.unique(labels)) == {0, 1, 2}


def test_inference_with_uncertainty(hippocampus, volumes, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("flipped", "fine_and_coarse"):
        shutil.copy(volumes[name].get_filename(), tmp_path / "in")
    options = {"uncertainty": "true", "num_generations": 3}
    arguments = {"dataset_dir": tmp_path / "in", "ckpt": hippocampus.weights, "output_dir": tmp_path / "out"}
    run = hippocampus.run("inference", **arguments, **options)
    kinds = ("seg", "entropy", "mutual_information")
    expected = {f"{name}_{kind}.nii.gz" for name in ("flipped", "fine_and_coarse") for kind in kinds}
    assert {path.name for path in (tmp_path / "out").iterdir()} == expected
    inferer, network = parts(run)
    for item in run.parser.get_parsed_content("dataset"):
        name = Path(item["image"].meta["filename_or_obj"]).name.removesuffix(".nii.gz")
        statistics = inferer.statistics(item["image"].as_tensor()[None], network)
        for kind in kinds:
            found = nib.load(tmp_path / "out" / f"{name}_{kind}.nii.gz")
            assert_same_place(found, volumes[name])
            values = np.asarray(found.dataobj)
            assert np.isfinite(values).all()
            if kind == "seg" or name != "flipped":
                continue
            assert values.dtype == np.float32
            canonical = nib.as_closest_canonical(nib.Nifti1Image(values, found.affine))
            np.testing.assert_allclose(canonical.dataobj, getattr(statistics, kind)[0, 0], atol=1e-6)
            assert values.max() > 0.01


def test_inference_is_reproducible(hippocampus, volumes, segmented: tuple[Path, Any], tmp_path: Path) -> None:
    path = volumes["turned"].get_filename()
    for seed in (0, 1):
        arguments = {"ckpt": hippocampus.weights, "output_dir": tmp_path / str(seed), "seed": seed}
        hippocampus.run("inference", dataset_dir=path, **arguments)
    name = "turned_seg.nii.gz"
    again, other, first = (
        np.asarray(nib.load(folder / name).dataobj) for folder in (tmp_path / "0", tmp_path / "1", segmented[0])
    )
    assert np.array_equal(again, first)
    assert not np.array_equal(other, first)


def test_parts_that_monai_label_takes(hippocampus, volumes, segmented: tuple[Path, Any]) -> None:
    """By their names, as a server uses them, without dataset and evaluator."""
    parser = read(hippocampus, "inference")
    network = copy.deepcopy(parser.get_parsed_content("network_def"))
    network.load_state_dict(torch.load(hippocampus.weights, weights_only=True))
    segmentor = DiffusionSegmentor(network, parser.get_parsed_content("inferer")).eval()
    for name in ("oblique", "fine_and_coarse"):
        path = volumes[name].get_filename()
        # Spacingd of MONAI 1.6.1 takes the path beside an image for its meta data.
        data = parser.get_parsed_content("pre_transforms")({"image": path, "image_path": path})
        with torch.no_grad():
            data["pred"] = segmentor(data["image"][None])[0]
        labels = np.asarray(parser.get_parsed_content("post_transforms")(data)["pred"])
        assert np.array_equal(labels, np.asarray(nib.load(segmented[0] / f"{name}_seg.nii.gz").dataobj))
    options = {"num_inference_steps", "num_generations", "seed"}
    written = {"result_extension": ".nii.gz", "result_dtype": "uint8"}
    assert parser["displayable_configs"] == {name: f"@{name}" for name in options} | written


# data


def test_training_and_inference_prepare_volumes_alike(hippocampus, volumes, tmp_path: Path) -> None:
    item = {"image": volumes["fine_and_coarse"].get_filename(), "label": str(tmp_path / "label.nii.gz")}
    shape = volumes["fine_and_coarse"].shape
    nib.save(nib.Nifti1Image(np.ones(shape, np.uint8), volumes["fine_and_coarse"].affine), item["label"])
    trained, segmented = (
        read(hippocampus, name).get_parsed_content(preprocessing)(dict(item))
        for name, preprocessing in (("train", "validate#preprocessing"), ("inference", "preprocessing"))
    )
    assert torch.equal(trained["image"], segmented["image"])
    assert torch.equal(trained["image"].affine, segmented["image"].affine)
    assert trained["image"].pixdim.tolist() == pytest.approx([1.0, 1.0, 1.0])
    assert trained["label"].shape == trained["image"].shape
    assert trained["label"].unique().tolist() == [1.0]


def test_augmented_items(hippocampus, tmp_path: Path) -> None:
    parser = read(hippocampus, "train")
    parser.update({"run_dir": str(tmp_path), "crop_size": [24, 16, 8]})  # larger and smaller than the volumes
    (item, *_) = parser.get_parsed_content("datalist")["training"]
    prepare = parser.get_parsed_content("train#preprocessing").set_random_state(0)
    drawn = [prepare(dict(item)) for _ in range(4)]
    for data in drawn:
        assert data["image"].shape == data["label"].shape == (1, 24, 16, 8)
        assert set(data["label"].unique().tolist()) <= {0.0, 1.0, 2.0}
    assert not torch.equal(drawn[0]["image"], drawn[1]["image"])
    assert not torch.equal(drawn[0]["label"], drawn[1]["label"])


def test_stand_in_is_generated(hippocampus, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sample = str(tmp_path / "sample_data")
    settings = {**hippocampus.settings("train", run_dir=str(tmp_path / "run")), "dataset_dir": sample}
    workflow = hippocampus.workflow("train", **settings, sample_dir=sample)
    workflow.initialize()
    assert f"Using the generated sample images in {sample}" in capsys.readouterr().out
    assert [len(entries) for entries in workflow.parser.get_parsed_content("datalist").values()] == [16, 4]


# command lines


def next_command(output: str) -> list[str]:
    """The command that a run proposes, without its program."""
    (line,) = (line for line in output.splitlines() if line.startswith("Next: "))
    return shlex.split(line.removeprefix("Next: "))[1:]


@pytest.mark.end_to_end
def test_quick_start(hippocampus, tmp_path: Path) -> None:
    """Training without any data, then each command that the one before proposes; then a volume that is refused."""
    copied = tmp_path / "bundles" / "hippocampus"
    shutil.copytree(hippocampus.configs, copied / "configs")
    for name in ("train", "inference"):
        parser = read(hippocampus, name)
        settings = {key: parser[key] for key in (*hippocampus.tiny, *hippocampus.sampling)}
        settings |= {"window_size": [40, 56, 40], "num_inference_steps": 2}
        path = copied / "configs" / f"{name}.json"
        parser = ConfigParser(json.loads(path.read_text()))
        parser.update(settings | (hippocampus.training if name == "train" else {}))
        path.write_text(json.dumps(parser.get()))
    words = ["-m", "monai.bundle", "run", "training", "--config_file", "bundles/hippocampus/configs/train.json"]
    done = hippocampus.process(words, tmp_path)
    assert "training the base: 100%" in done.stderr
    assert "training: 100%" in done.stderr
    assert (copied / "runs" / "sample" / "base" / "model.pt").is_file()

    done = hippocampus.process(next_command(done.stdout), tmp_path)
    assert "mean of images" in done.stdout
    assert len(json.loads((copied / "runs" / "sample" / "evaluation" / "metrics.json").read_text())["images"]) == 4

    (tmp_path / "volumes").mkdir()
    shutil.copy(copied / "sample_data" / "imagesTr" / "hippocampus_003.nii.gz", tmp_path / "volumes" / "a.nii.gz")
    words = [word.replace("FOLDER_OF_VOLUMES", "volumes") for word in next_command(done.stdout)]
    hippocampus.process(words, tmp_path)
    found = nib.load(copied / "output" / "a_seg.nii.gz")
    assert_same_place(found, nib.load(tmp_path / "volumes" / "a.nii.gz"))

    nib.save(nib.Nifti1Image(np.ones((8, 8, 8, 2), np.float32), np.eye(4)), tmp_path / "volumes" / "b.nii.gz")
    last = hippocampus.process(words, tmp_path, expect=1).stderr.rstrip().splitlines()[-1]
    assert last.startswith(f"ImageError: {tmp_path / 'volumes' / 'b.nii.gz'}: has the shape [8, 8, 8, 2]; expected")
