# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow
from monai.utils import set_determinism
from PIL import Image

from benchmarks import mask_prior as module
from benchmarks.bundle import Bundle
from benchmarks.mask_prior import HIPPOCAMPUS, main, mask_prior
from benchmarks.mask_prior_arm import WEIGHTS, mask_prior_arms
from benchmarks.mask_prior_table import flat_mask_prior
from monai_segdiff.exceptions import CheckpointError, DatasetError
from monai_segdiff.handlers.scorers.calibration_scorer import CalibrationScorer
from monai_segdiff.handlers.scorers.image_scorer import ImageScorer

SIZE = 16
TINY: dict[str, Any] = {
    "base_network_def#channels": [4, 8],
    "base_network_def#strides": [2],
    "base_network_def#num_res_units": 0,
    "network_def#channels": [4, 8],
    "network_def#attention_levels": [False, False],
    "network_def#num_head_channels": 8,
    "network_def#norm_num_groups": 4,
    "network_def#condition_channels": 4,
    "window_size": [SIZE, SIZE, SIZE],
    "device": "cpu",
}
WORDS = ["--override", *(f"{name}={json.dumps(value)}" for name, value in TINY.items() if name != "device")]


@pytest.fixture(scope="module")
def tiny() -> Bundle:
    """The bundle for the hippocampus, with a tiny network."""
    return Bundle(TINY, root=HIPPOCAMPUS)


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four volumes, each half background."""
    root = tmp_path_factory.mktemp("volumes")
    rng = np.random.default_rng(0)
    for n in range(4):
        label = np.zeros((SIZE,) * 3, np.uint8)
        label[:, :, n : n + 4], label[:, :, n + 4 : n + 8] = 1, 2
        image = 100 * label + rng.integers(0, 100, label.shape)
        for name, voxels in (("imagesTr", image.astype(np.int16)), ("labelsTr", label)):
            (root / name).mkdir(exist_ok=True)
            nib.save(nib.Nifti1Image(voxels, np.eye(4)), root / name / f"v{n}.nii.gz")
    return root


@pytest.fixture(scope="module")
def files(tiny: Bundle, volumes: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Three files of random weights with the same base, each trained on a volume of its own."""
    root, base = tmp_path_factory.mktemp("weights"), {}
    for n, name in enumerate(WEIGHTS):
        generator = torch.Generator().manual_seed(n)
        state = {
            key: torch.randn(value.shape, generator=generator).mul_(0.3).to(value.dtype)
            for key, value in tiny.value("network_def").state_dict().items()
        }
        base = base or {key: value for key, value in state.items() if key.startswith("base.")}
        (root / name).mkdir()
        torch.save(state | base, root / name / "model.pt")
        # The last volume trained two of them.
        trained = [{"name": f"v{(0, 3, 3)[n]}", "image": "a.nii.gz", "label": "b.nii.gz"}]
        (root / name / "split.json").write_text(json.dumps({"training": trained, "validation": trained}))
    return {name: str(root / name / "model.pt") for name in WEIGHTS}


@pytest.fixture
def evaluated(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[str]]]:
    """Names of the arms that are evaluated and of their images; made-up reports in place of evaluations."""
    calls: list[tuple[str, list[str]]] = []

    def stand_in(bundle: Bundle, arm: Any, weights: str, entries: list[Mapping[str, str]], folder: Path) -> dict:
        calls.append((arm.name, [entry["name"] for entry in entries]))
        images = [{"name": entry["name"], "dice": len(calls) / 64} for entry in entries]
        mean = {"dice": {"value": len(calls) / 64, "interval": None}}
        pooled = {"expected_calibration_error": {"value": 0.5, "interval": None}}
        return {"seconds": float(len(calls)), "mean": mean, "pooled": pooled, "images": images}

    monkeypatch.setattr(module, "_evaluate", stand_in)
    return calls


def test_scores_are_those_of_the_bundles_own_evaluation(
    tiny: Bundle,
    volumes: Path,
    files: dict[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arms = [arm for arm in mask_prior_arms(WEIGHTS, 4) if arm.name != "ensemble, base + DDPS"]
    monkeypatch.setattr(module, "mask_prior_arms", lambda *asked: arms)
    monkeypatch.setattr(CalibrationScorer, "draw", ImageScorer.draw)  # half of the time
    flat = mask_prior(tiny, volumes, files, tmp_path / "out")
    assert capsys.readouterr().out == ""
    assert [line["arm"] for line in flat] == [arm.name for arm in arms]
    reports = {}
    for arm in arms:
        reports[arm.name] = report = json.loads((tmp_path / "out" / arm.folder / "metrics.json").read_text())
        assert report["checkpoint"] == files[arm.weights]
        assert {name: report[name] for name in arm.settings} == arm.settings
        assert [image["name"] for image in report["images"]] == ["v1.nii.gz", "v2.nii.gz"]
        assert not (tmp_path / "out" / arm.folder / "overlays").exists()
    rows = [{"arm": arm.name, **reports[arm.name], "seconds": 1} for arm in arms]
    scores = [name for name in flat[0] if name.startswith(("dice", "surface_dice", "hd95", "boundary_iou", "pooled"))]
    assert len(scores) > 20
    for line, expected in zip(flat, flat_mask_prior(rows), strict=True):
        assert {name: line[name] for name in scores} == {name: expected[name] for name in scores}
        assert line["seconds"] > 0
        assert line["ratio"] == line["seconds"] / flat[0]["seconds"]
    # Each arm does something else, and the base is the same in all files.
    assert len({line["pooled_expected_calibration_error"] for line in flat}) == len(arms)
    assert (tmp_path / "out" / "mask_prior.txt").read_text() == module.format_mask_prior(flat) + "\n"

    configs = [str(HIPPOCAMPUS / "configs" / f"{name}.json") for name in ("train", "evaluate")]
    paths = {"bundle_root": str(HIPPOCAMPUS), "dataset_dir": str(volumes), "output_dir": str(tmp_path / "own")}
    workflow = ConfigWorkflow(configs, logging_file=False, ckpt=files["first_prediction"], **paths, **TINY)
    monkeypatch.syspath_prepend(tmp_path)  # a workflow leaves its bundle on the path; this is undone
    workflow.initialize()
    set_determinism(None)  # the inferer has seeds of its own
    workflow.run()
    own = json.loads((tmp_path / "own" / "metrics.json").read_text())["images"]
    assert [image["name"] for image in own] == ["v1.nii.gz", "v2.nii.gz", "v3.nii.gz"]
    assert own[:2] == reports["DDPS, 3 steps"]["images"]


def test_an_interruption_keeps_what_is_done(
    tiny: Bundle, volumes: Path, files: dict[str, str], tmp_path: Path, evaluated: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in = module._evaluate

    def killed(*args: Any) -> dict[str, Any]:
        if len(evaluated) == 3:
            raise KeyboardInterrupt
        return stand_in(*args)

    monkeypatch.setattr(module, "_evaluate", killed)
    with pytest.raises(KeyboardInterrupt):
        mask_prior(tiny, volumes, files, tmp_path)
    monkeypatch.setattr(module, "_evaluate", stand_in)
    names = [arm.name for arm in mask_prior_arms(WEIGHTS, 20)]
    flat = mask_prior(tiny, volumes, files, tmp_path)
    assert evaluated == [(name, ["v1", "v2"]) for name in names]
    assert [line["dice"] for line in flat] == [n / 64 for n in range(1, 13)]
    assert mask_prior(tiny, volumes, files, tmp_path) == flat
    assert len(evaluated) == 12
    assert len(json.loads((tmp_path / "mask_prior.json").read_text())["rows"]) == 12


def test_results_belong_to_contents(
    tiny: Bundle, volumes: Path, files: dict[str, str], tmp_path: Path, evaluated: list
) -> None:
    def run(weights: dict[str, str], folder: Path = volumes, num_images: int | None = None) -> list[str]:
        evaluated.clear()
        mask_prior(tiny, folder, weights, tmp_path / "out", num_images)
        return [name for name, _ in evaluated]

    ours = {"first_prediction": files["first_prediction"]}
    assert (first := run(ours)) == [arm.name for arm in mask_prior_arms(ours, 20)]
    # The same file in another place.
    shutil.copy(ours["first_prediction"], tmp_path / "renamed.pt")
    shutil.copy(Path(files["first_prediction"]).with_name("split.json"), tmp_path)
    assert run({"first_prediction": str(tmp_path / "renamed.pt")}) == []
    # Under two names: what it has been evaluated for is there.
    assert run({**ours, "single_step": ours["first_prediction"]}) == ["ensemble, base + head"]
    assert run(ours, num_images=1) == first
    assert evaluated[0][1] == ["v1"]
    copied = tmp_path / "copy"
    shutil.copytree(volumes, copied)
    assert run(ours, copied) == []
    shutil.copy(copied / "labelsTr" / "v2.nii.gz", copied / "labelsTr" / "v3.nii.gz")
    assert run(ours, copied) == first


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"window_overlap": 0.5}, r"\['window_overlap'\]"),
        ({"seed": 1}, r"\['seed'\]"),
        ({"scheduler#sampler": "posterior"}, r"\['scheduler'\]"),
        ({"validate#handlers#2#scorers#1#tolerance": 2}, r"\['validate#handlers'\]"),
    ],
)
def test_another_protocol_is_refused(
    tiny: Bundle, volumes: Path, files: dict[str, str], tmp_path: Path, evaluated: list, changes: dict, names: str
) -> None:
    ours = {"first_prediction": files["first_prediction"]}
    mask_prior(tiny, volumes, ours, tmp_path)
    with pytest.raises(DatasetError, match=names + " differ"):
        mask_prior(tiny.with_overrides(changes), volumes, ours, tmp_path)


def test_images_that_trained_any_network_are_left_out(
    tiny: Bundle, volumes: Path, files: dict[str, str], tmp_path: Path, evaluated: list
) -> None:
    mask_prior(tiny, volumes, {"first_prediction": files["first_prediction"]}, tmp_path)
    assert evaluated[0][1] == ["v1", "v2", "v3"]
    trained = [{"name": f"v{n}", "image": "a.nii.gz", "label": "b.nii.gz"} for n in (1, 2, 3)]
    (tmp_path / "split.json").write_text(json.dumps({"training": trained, "validation": trained}))
    shutil.copy(files["single_step"], tmp_path / "model.pt")
    with pytest.raises(DatasetError, match="each image trained one of the networks"):
        mask_prior(tiny, volumes, {**files, "single_step": str(tmp_path / "model.pt")}, tmp_path)


@pytest.mark.parametrize("change", [1e-2, 1e-5])
def test_weights_refine_the_same_base(
    tiny: Bundle, volumes: Path, files: dict[str, str], tmp_path: Path, evaluated: list, change: float
) -> None:
    state = torch.load(files["single_step"])
    name = next(name for name in state if name.startswith("base."))
    torch.save({**state, name: state[name] * (1 + change)}, tmp_path / "other.pt")
    asked = tiny, volumes, {**files, "single_step": str(tmp_path / "other.pt")}, tmp_path
    if change < 1e-3:  # as of half precision
        mask_prior(*asked)
    else:
        with pytest.raises(CheckpointError, match=r"other\.pt has another base than .*model\.pt: 1 of its \d+ tensors"):
            mask_prior(*asked)
        assert evaluated == []


def test_command(
    volumes: Path, files: dict[str, str], tmp_path: Path, evaluated: list, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--dataset_dir", str(volumes), "--device", "cpu", "--output_dir", str(tmp_path), "--num_images", "1"]
    main([*given, *(word for name in WEIGHTS for word in (f"--{name}", files[name])), *WORDS])
    printed = capsys.readouterr().out
    assert printed.startswith((tmp_path / "mask_prior.txt").read_text())
    assert printed.splitlines()[-1] == (f"Images: 1. Differences are paired, image by image. Also in {tmp_path}.")
    with (tmp_path / "mask_prior.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["arm"] for row in rows] == [name for name, _ in evaluated]
    assert [float(row["dice_minus_base"] or 0) for row in rows] == [n / 64 for n in range(12)]
    assert [float(row["dice_minus_head"] or 0) for row in rows] == [(n - 1) / 64 for n in range(12)]
    with Image.open(tmp_path / "mask_prior.png") as picture:
        assert picture.size[0] > 500


MONUSEG = str(HIPPOCAMPUS.with_name("monuseg"))


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        ({"--first_prediction": "none.pt"}, 1, "none.pt does not exist."),
        ({"--ground_truth": "none.pt"}, 1, "none.pt does not exist."),
        ({"--override": "network_def#channels=[8,8]"}, 1, "written for another network than MaskPriorUNet"),
        ({"--override": "windows=3"}, 1, "Unknown override windows: there is no such entry in train, evaluate of"),
        ({"--override": "sampler=posterior"}, 2, "--override sampler: set by the comparison, expected no override"),
        ({"--override": "ckpt=a.pt"}, 2, "--override ckpt: set by the comparison, expected no override"),
        ({"--dataset_dir": "nowhere"}, 1, "DatasetError: "),
        ({"--num_images": "0"}, 2, "'0' is not a whole number of at least 1"),
        ({"--bundle": "."}, 2, ". has no configs/train.json, expected the folder of a bundle."),
        ({"--bundle": MONUSEG, "--override": "seed=0"}, 1, "Unknown override sampler: there is no such entry in"),
    ],
)
def test_bad_command_lines(
    volumes: Path,
    files: dict[str, str],
    tmp_path: Path,
    changes: dict[str, str],
    code: int,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = {"--dataset_dir": str(volumes), "--first_prediction": files["first_prediction"], **changes}
    extra = [given.pop("--override")] if "--override" in given else []
    words = WORDS if "--bundle" not in changes else WORDS[:1]
    with pytest.raises(SystemExit) as stopped:
        main([*(w for pair in given.items() for w in pair), "--output_dir", str(tmp_path / "out"), *words, *extra])
    assert stopped.value.code == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_damaged_volumes_are_named(
    tiny: Bundle, volumes: Path, files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copied = tmp_path / "copy"
    shutil.copytree(volumes, copied)
    (copied / "imagesTr" / "v1.nii.gz").write_bytes(b"nothing")
    ours = ["--first_prediction", files["first_prediction"], "--output_dir", str(tmp_path / "out")]
    with pytest.raises(SystemExit):
        main(["--dataset_dir", str(copied), *ours, "--device", "cpu", *WORDS])
    assert "v1.nii.gz" in capsys.readouterr().err
