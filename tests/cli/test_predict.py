# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import importlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from typer.testing import CliRunner, Result

from monai_segdiff import SegDiffPredictor, generate_hippocampus_sample, generate_sample_dataset
from monai_segdiff.cli import app

sys.path.insert(0, str(Path(__file__).parents[1] / "io"))
from synthetic_series import write_series  # noqa: E402

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _no_bundle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MONAI_SEGDIFF_BUNDLE", raising=False)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Folder of three noisy pictures, wider than high."""
    folder = tmp_path / "in"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in "abc":
        Image.fromarray(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(folder / f"{name}.png")
    return folder


@pytest.fixture
def series(tmp_path: Path) -> Path:
    return write_series(tmp_path / "in", shape=(6, 14, 17)).folder


def run(*words: Any) -> Result:
    return CliRunner().invoke(app, ["predict", *map(str, words)])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def read(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


# What is done


def test_a_folder_of_pictures(picture_bundle: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    result = run(images, out, "--bundle", picture_bundle)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"3 of 3 images segmented, 0 failed; results are in {out}\n"
    assert result.stderr == ""  # no bar in a log, no warnings
    assert names(out) == [f"{name}_{what}.png" for name in "abc" for what in ("mask", "overlay")]
    predictor = SegDiffPredictor.from_bundle(picture_bundle, device="cpu")
    for name in "abc":
        mask = predictor.predict(images / f"{name}.png").mask
        assert np.array_equal(read(out / f"{name}_mask.png"), mask * 255)
        assert 0 < mask.mean() < 1


def test_one_picture_and_a_bundle_from_the_environment(
    picture_bundle: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MONAI_SEGDIFF_BUNDLE", str(picture_bundle))
    result = run(images / "b.png", tmp_path / "out", "--no-overlay")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("1 of 1 image segmented, 0 failed;")
    assert names(tmp_path / "out") == ["b_mask.png"]


def test_settings_reach_the_predictor(picture_bundle: Path, images: Path, tmp_path: Path) -> None:
    settings = {"num_inference_steps": 2, "num_generations": 3, "seed": 7, "max_batch": 2}
    words = [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", value)]
    result = run(
        *(images / "a.png", tmp_path / "out", "--bundle", picture_bundle, "--device", "cpu", "--timeout", 100),
        *("--no-overlay", "--probability", "--uncertainty", "--geojson", "--pixel-size", 0.25, *words),
    )
    assert result.exit_code == 0, result.output
    assert names(tmp_path / "out") == ["a_entropy.tif", "a_mask.png", "a_nuclei.geojson", "a_probability.png"]
    predictor = SegDiffPredictor.from_bundle(picture_bundle, device="cpu")
    expected = predictor.predict(images / "a.png", **settings)
    assert np.array_equal(read(tmp_path / "out" / "a_entropy.tif"), expected.uncertainty)
    assert np.array_equal(
        read(tmp_path / "out" / "a_probability.png"), (255 * expected.probability[0]).astype(np.uint8)
    )
    collection = json.loads((tmp_path / "out" / "a_nuclei.geojson").read_text())
    given = collection["provenance"]["settings"]
    assert (given["num_inference_steps"], given["num_generations"], given["max_batch"]) == (2, 3, 2)
    assert collection["provenance"]["seed"] == 7
    for feature in collection["features"]:
        measured = feature["properties"]["measurements"]
        assert measured["Area µm^2"] == pytest.approx(measured["Area px^2"] / 16)


def test_the_bound_on_memory_reaches_the_predictor(
    picture_bundle: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[dict[str, Any]] = []
    predict = SegDiffPredictor.predict

    def spy(self: SegDiffPredictor, image: Any, **settings: Any) -> Any:
        given.append(settings)
        return predict(self, image, **settings)

    monkeypatch.setattr(SegDiffPredictor, "predict", spy)
    words = ("--max-batch", 3, "--timeout", 50.5)
    assert run(images / "a.png", tmp_path / "out", "--bundle", picture_bundle, *words).exit_code == 0
    bundles_own = dict.fromkeys(["num_inference_steps", "num_generations", "seed", "series_uid"])
    assert given == [{**bundles_own, "max_batch": 3, "timeout_s": 50.5}]


@pytest.mark.parametrize("terminal", [True, False])
def test_a_bar_in_a_terminal_only(
    terminal: bool, picture_bundle: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: SegDiffPredictor, image: Any, **settings: Any) -> Any:
        raise ValueError("no")

    stderr = io.StringIO()
    monkeypatch.setattr(stderr, "isatty", lambda: terminal)
    module = importlib.import_module("monai_segdiff.cli.predict")
    monkeypatch.setattr(module, "sys", SimpleNamespace(stderr=stderr))
    monkeypatch.setattr(SegDiffPredictor, "predict", fail)
    result = run(images, tmp_path / "out", "--bundle", picture_bundle)
    assert result.exit_code == 1
    assert stderr.getvalue() == "".join(f"Failed: {images / name}.png: ValueError: no\n" for name in "abc")
    assert ("3/3" in result.stderr) == terminal


def test_volumes(volume_bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.nii.gz", "b.nii"):
        voxels = np.random.default_rng(0).normal(100, 30, (12, 16, 10)).astype(np.float32)
        nib.Nifti1Image(voxels, np.diag([1.0, 1.25, 0.75, 1.0])).to_filename(folder / name)
    result = run(folder, tmp_path / "out", "--bundle", volume_bundle, "--probability", "--uncertainty")
    assert result.exit_code == 0, result.output
    kinds = ("entropy.nii.gz", "overlay.png", "probability.nii.gz", "seg.nii.gz")
    assert names(tmp_path / "out") == [f"{name}_{kind}" for name in "ab" for kind in kinds]
    assert result.stderr == ""


def test_a_series(volume_bundle: Path, series: Path, tmp_path: Path) -> None:
    result = run(series, tmp_path / "out", "--bundle", volume_bundle, "--dicom-seg", "--probability")
    assert result.exit_code == 0, result.output
    kinds = ("overlay.png", "probability.dcm", "probability.nii.gz", "seg.dcm", "seg.nii.gz")
    assert names(tmp_path / "out") == [f"in_{kind}" for kind in kinds]
    kinds_of_segmentation = [
        dcmread(tmp_path / "out" / f"in_{name}.dcm").SegmentationType for name in ("seg", "probability")
    ]
    assert kinds_of_segmentation == ["BINARY", "FRACTIONAL"]


def test_one_series_of_several(volume_bundle: Path, series: Path, tmp_path: Path) -> None:
    uid = dcmread(next(series.iterdir())).SeriesInstanceUID
    other = write_series(series, shape=(5, 12, 16), prefix="other")
    assert run(series, tmp_path / "out", "--bundle", volume_bundle).exit_code == 1
    for series_uid, shape in ((uid, (17, 14, 6)), (dcmread(other.paths[0]).SeriesInstanceUID, (16, 12, 5))):
        result = run(series, tmp_path / "out", "--bundle", volume_bundle, "--no-overlay", "--series-uid", series_uid)
        assert result.exit_code == 0, result.output
        assert nib.load(tmp_path / "out" / "in_seg.nii.gz").shape == shape


def test_results_may_lie_below_or_above_the_images(picture_bundle: Path, images: Path) -> None:
    for out in (images / "results", images.parent):
        assert run(images / "a.png", out, "--bundle", picture_bundle, "--no-overlay").exit_code == 0
        assert (out / "a_mask.png").is_file()
    assert names(images) == ["a.png", "b.png", "c.png", "results"]


# What fails


def test_a_bad_image_is_named_and_the_rest_done(picture_bundle: Path, images: Path, tmp_path: Path) -> None:
    bad = images / "b.png"
    bad.write_bytes(bad.read_bytes()[:200])
    result = run(images, tmp_path / "out", "--bundle", picture_bundle)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Failed: {bad}: cannot be decoded")
    assert result.stderr.count("\n") == 1
    assert result.stdout.startswith("2 of 3 images segmented, 1 failed;")
    assert names(tmp_path / "out") == [f"{name}_{what}.png" for name in "ac" for what in ("mask", "overlay")]


def test_all_too_slow(picture_bundle: Path, images: Path, tmp_path: Path) -> None:
    result = run(images, tmp_path / "out", "--bundle", picture_bundle, "--timeout", 1e-6)
    assert result.exit_code == 1
    assert result.stderr.count("Failed: ") == result.stderr.count("not done after 1e-06 s") == 3
    assert names(tmp_path / "out") == []


def test_a_series_that_no_segmentation_can_refer_to(
    volume_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("it is segmented before it is looked at")

    bad = write_series(tmp_path / "in", shape=(6, 14, 17), change=lambda k, d: delattr(d, "FrameOfReferenceUID")).folder
    monkeypatch.setattr(SegDiffPredictor, "predict", refuse)
    result = run(bad, tmp_path / "out", "--bundle", volume_bundle, "--dicom-seg")
    assert result.exit_code == 1
    assert "FrameOfReferenceUID" in result.stderr
    assert names(tmp_path / "out") == []


def test_a_result_that_cannot_be_written(picture_bundle: Path, images: Path, tmp_path: Path) -> None:
    (tmp_path / "out" / "b_mask.png").mkdir(parents=True)
    result = run(images, tmp_path / "out", "--bundle", picture_bundle, "--no-overlay")
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Failed: {images / 'b.png'}: IsADirectoryError: ")
    assert result.stderr.count("\n") == 1
    assert names(tmp_path / "out") == ["a_mask.png", "b_mask.png", "c_mask.png"]


def test_a_series_with_a_missing_slice(volume_bundle: Path, series: Path, tmp_path: Path) -> None:
    middle = sorted(series.iterdir(), key=lambda path: dcmread(path).ImagePositionPatient[2])[2]
    middle.unlink()
    result = run(series, tmp_path / "out", "--bundle", volume_bundle)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Failed: {series}: ")
    assert "is a slice missing" in result.stderr
    assert names(tmp_path / "out") == []


def test_a_series_that_is_not_there(volume_bundle: Path, series: Path, tmp_path: Path) -> None:
    result = run(series, tmp_path / "out", "--bundle", volume_bundle, "--series-uid", "1.2.3")
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Failed: {series}: holds 1 series: ")
    assert "with the UID 1.2.3" in result.stderr


@pytest.mark.parametrize("where", ["predict", "write"])
def test_ctrl_c(
    where: str, picture_bundle: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, name = (SegDiffPredictor, "predict") if where == "predict" else (Image, "fromarray")
    original, calls = getattr(owner, name), []

    def interrupted(*arguments: Any, **settings: Any) -> Any:
        calls.append(arguments)
        if len(calls) == (2 if where == "predict" else 4):  # of an image: the mask and the overlay
            raise KeyboardInterrupt
        return original(*arguments, **settings)

    monkeypatch.setattr(owner, name, interrupted)
    result = run(images, tmp_path / "out", "--bundle", picture_bundle)
    assert result.exit_code == 130
    assert result.stderr.strip() == f"Stopped: 1 of 3 done, in {tmp_path / 'out'}"
    assert names(tmp_path / "out") == ["a_mask.png", "a_overlay.png"]


# What is refused before anything is done


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "Missing option --bundle (or the environment variable MONAI_SEGDIFF_BUNDLE)"),
        (["--bundle", "nowhere"], "metadata.json: does not exist; expected a bundle folder"),
        (["--bundle", ""], "Invalid value for '--bundle'"),
        (["--bundle", "BUNDLE", "--device", "gpu"], "--device is 'gpu'; expected auto, cpu, cuda, cuda:N or mps"),
        (["--bundle", "BUNDLE", "--device", "meta"], "--device is 'meta'; expected auto, cpu, cuda, cuda:N or mps"),
        (["--bundle", "BUNDLE", "--series-uid", "1.2"], "in: --series-uid needs a folder with a DICOM series"),
        (["--bundle", "VOLUMES", "--series-uid", ""], "holds no image; expected files with .nii"),
        (["--bundle", "BUNDLE", "--seed", "-1"], "Invalid value for '--seed'"),
        (["--bundle", "BUNDLE", "--num-generations", "0"], "Invalid value for '--num-generations'"),
        (["--bundle", "BUNDLE", "--max-batch", "0"], "Invalid value for '--max-batch'"),
        (["--bundle", "BUNDLE", "--num-inference-steps", "1001"], "num_inference_steps must lie in 1..100, found 1001"),
        (["--bundle", "BUNDLE", "--timeout", "0"], "--timeout is 0.0; expected a number above 0"),
        (["--bundle", "BUNDLE", "--timeout", "nan"], "--timeout is nan; expected a number above 0"),
        (["--bundle", "BUNDLE", "--geojson", "--pixel-size", "inf"], "--pixel-size is inf; expected a number above 0"),
        (["--bundle", "BUNDLE", "--pixel-size", "0.5"], "--pixel-size has no effect without --geojson"),
        (["--bundle", "BUNDLE", "--dicom-seg"], "Bundle nuclei segments pictures; expected one for volumes"),
        (["--bundle", "VOLUMES", "--geojson"], "Bundle volumes does not tell nuclei in pictures apart"),
        (["--bundle", "VOLUMES"], "holds no image; expected files with .nii"),
        (["--bundle", "BUNDLE", "--steps", "3"], "No such option: --steps"),
    ],
)
def test_wrong_options(
    words: list[str], message: str, picture_bundle: Path, volume_bundle: Path, images: Path, tmp_path: Path
) -> None:
    folders = {"BUNDLE": picture_bundle, "VOLUMES": volume_bundle}
    result = run(images, tmp_path / "out", *(folders.get(word, word) for word in words))
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("source", "out", "message"),
    [
        ("nowhere", "out", "nowhere: does not exist; expected a folder of images"),
        ("in/a.txt", "out", "a.txt: names no image"),
        ("empty", "out", "empty: holds no image"),
        ("in", "in", "in: is the folder of the images; expected another one"),
        ("in", "link", "link: is the folder of the images; expected another one"),
        ("in/a.png", "in", "in: is the folder of the images; expected another one"),
        ("list.txt", "images", "images: is the folder of the images; expected another one"),
        (".", "images", "images: is the folder of the images; expected another one"),
        (".", ".", ".: is the folder of the images; expected another one"),
        ("", "out", "Invalid value for 'IN': is empty"),
        ("in", "", "Invalid value for 'OUT': is empty"),
        ("both", "out", "both: holds images (b.png), and so does "),
        ("in", "in/a.png", "in/a.png: is a file; expected a folder for the results"),
        ("in", "in/a.png/out", "Not a directory"),
    ],
)
def test_wrong_folders(
    source: str,
    out: str,
    message: str,
    picture_bundle: Path,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "in" / "a.txt").write_text("")
    (tmp_path / "images").mkdir()  # a name that is looked for
    (tmp_path / "images" / "a.png").write_bytes((images / "a.png").read_bytes())
    (tmp_path / "both" / "images").mkdir(parents=True)
    for name in ("both/b.png", "both/images/c.png"):
        (tmp_path / name).write_bytes((images / "a.png").read_bytes())
    (tmp_path / "list.txt").write_text("in/b.png\nimages/a.png\n")
    (tmp_path / "link").symlink_to("in")
    before = sorted(tmp_path.rglob("*"))
    result = run(source, out, "--bundle", picture_bundle)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert result.stderr.strip().splitlines()[-1].startswith("Error: ")
    assert sorted(tmp_path.rglob("*")) == before


def test_results_among_the_slices_of_a_series(volume_bundle: Path, series: Path) -> None:
    before = names(series)
    result = run(series, series, "--bundle", volume_bundle)
    assert result.exit_code == 2
    assert f"{series}: is the folder of the images" in result.stderr
    assert names(series) == before


def test_damaged_weights(picture_bundle: Path, images: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    for name in ("configs/inference.json", "configs/metadata.json", "models/model.pt"):
        (bundle / name).parent.mkdir(parents=True, exist_ok=True)
        (bundle / name).write_bytes((picture_bundle / name).read_bytes()[: 500 if "model" in name else None])
    result = run(images, tmp_path / "out", "--bundle", bundle)
    assert result.exit_code == 2
    assert f"Checkpoint {bundle / 'models' / 'model.pt'} is damaged" in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("package", "words"), [("pydicom", []), ("itk", []), ("highdicom", ["--dicom-seg"])], ids=lambda value: str(value)
)
def test_a_series_without_the_extra(
    package: str,
    words: list[str],
    volume_bundle: Path,
    series: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    result = run(series, tmp_path / "out", "--bundle", volume_bundle, *words)
    assert result.exit_code == 2
    assert "pip install 'monai_segdiff[dicom]'" in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--dicom-seg"], "a.nii: --dicom-seg needs a folder with a DICOM series"),
        (["--series-uid", "1.2"], "a.nii: --series-uid needs a folder with a DICOM series"),
        (["--series-uid", ""], "--series-uid is empty"),
    ],
)
def test_options_of_a_series_with_nifti(words: list[str], message: str, volume_bundle: Path, tmp_path: Path) -> None:
    nib.Nifti1Image(np.zeros((8, 8, 8), np.float32), np.eye(4)).to_filename(tmp_path / "a.nii")
    result = run(tmp_path / "a.nii", tmp_path / "out", "--bundle", volume_bundle, *words)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (tmp_path / "out").exists()


def test_an_empty_uid_of_a_series(volume_bundle: Path, series: Path, tmp_path: Path) -> None:
    result = run(series, tmp_path / "out", "--bundle", volume_bundle, "--series-uid", "")
    assert result.exit_code == 2
    assert "--series-uid is empty" in result.stderr
    assert not (tmp_path / "out").exists()


# Real processes


def process(*words: Any, **environment: str) -> subprocess.Popen[str]:
    # Warnings are errors in the tests' own process only.
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **environment}
    variables.pop("PYTHONWARNINGS", None)
    return subprocess.Popen(
        [sys.executable, "-m", "monai_segdiff.cli", *map(str, words)],
        cwd=ROOT,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.end_to_end
@pytest.mark.parametrize("name", ["monuseg", "hippocampus"])
def test_the_command_writes_what_the_bundle_writes(name: str, tmp_path: Path) -> None:
    """With the released weights, bit for bit."""
    bundle = ROOT / "bundles" / name
    if name == "monuseg":
        sample = generate_sample_dataset(tmp_path / "sample", num_images=1, image_size=160)
        image = tmp_path / "a.png"
        with Image.open(sample / "images" / "sample_000.png") as picture:
            picture.crop((0, 0, 150, 110)).save(image)
        files = ["a_mask.png", "a_overlay.png", "a_probability.png"]
    else:
        sample = generate_hippocampus_sample(tmp_path / "sample", num_volumes=3)
        image = sample / "imagesTr" / "hippocampus_003.nii.gz"  # an oblique one
        files = ["hippocampus_003_seg.nii.gz"]
    command = process("predict", image, tmp_path / "out", "--probability", MONAI_SEGDIFF_BUNDLE=str(bundle))
    stdout, stderr = command.communicate(timeout=300)
    assert (command.returncode, stderr) == (0, ""), stderr  # MONAI's warnings about nvImageCodec are kept off
    assert stdout == f"1 of 1 image segmented, 0 failed; results are in {tmp_path / 'out'}\n"
    config = str(bundle / "configs" / "inference.json")
    overrides = {"dataset_dir": image, "output_dir": tmp_path / "expected", "device": "cpu"}
    words = [word for key, value in overrides.items() for word in (f"--{key}", str(value))]
    subprocess.run(
        [sys.executable, "-m", "monai.bundle", "run", "inference", "--config_file", config, *words],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        check=True,
        capture_output=True,
        timeout=300,
    )
    assert files == names(tmp_path / "expected")
    for file in files:
        found, expected = tmp_path / "out" / file, tmp_path / "expected" / file
        if file.endswith(".png"):
            assert found.read_bytes() == expected.read_bytes(), file
        else:
            assert nib.load(found).header.binaryblock == nib.load(expected).header.binaryblock
            assert np.array_equal(nib.load(found).dataobj, nib.load(expected).dataobj)
            assert np.any(nib.load(expected).dataobj)


@pytest.mark.end_to_end
def test_a_signal_stops_it_with_nothing_half_written(picture_bundle: Path, images: Path, tmp_path: Path) -> None:
    many = tmp_path / "many"
    many.mkdir()
    for number in range(200):
        (many / f"{number:03d}.png").write_bytes((images / "a.png").read_bytes())
    out = tmp_path / "out"
    command = process("predict", many, out, "--bundle", picture_bundle, "--num-inference-steps", 10)
    end = time.monotonic() + 120
    while not (out.is_dir() and list(out.glob("*_mask.png"))):
        assert command.poll() is None
        assert time.monotonic() < end
        time.sleep(0.05)
    command.send_signal(signal.SIGINT)
    stdout, stderr = command.communicate(timeout=60)
    assert command.returncode == 130, stderr
    done = len(list(out.glob("*_mask.png")))
    assert 0 < done < 200
    assert stdout == ""
    assert "Traceback" not in stderr
    assert names(out) == [f"{number:03d}_{what}.png" for number in range(done) for what in ("mask", "overlay")]
    for path in out.iterdir():
        assert read(path).shape[:2] == (40, 60)


def interrupting_bundle(bundle: Path, folder: Path) -> Path:
    """A bundle that sends Ctrl-C to its process when its network is asked for."""
    shutil.copytree(bundle, folder)
    config = json.loads((folder / "configs" / "inference.json").read_text())
    config["network"] = "$__import__('os').kill(__import__('os').getpid(), 2)"
    (folder / "configs" / "inference.json").write_text(json.dumps(config))
    return folder


def test_a_signal_while_the_bundle_is_loaded(picture_bundle: Path, images: Path, tmp_path: Path) -> None:
    bundle = interrupting_bundle(picture_bundle, tmp_path / "bundle")
    result = run(images, tmp_path / "out", "--bundle", bundle)
    assert (result.exit_code, result.output) == (130, "")
    assert not (tmp_path / "out").exists()


@pytest.mark.end_to_end
@pytest.mark.parametrize("command", ["predict", "doctor"])
def test_a_signal_during_the_start(command: str, picture_bundle: Path, images: Path, tmp_path: Path) -> None:
    words = (images, tmp_path / "out") if command == "predict" else ()
    bundle = interrupting_bundle(picture_bundle, tmp_path / "bundle")
    started = process(command, *words, "--bundle", bundle, "--device", "cpu")
    _, stderr = started.communicate(timeout=120)
    assert (started.returncode, stderr) == (130, "")
    assert not (tmp_path / "out").exists()


@pytest.mark.end_to_end
def test_the_doctor(picture_bundle: Path) -> None:
    command = process("doctor", "--bundle", picture_bundle, "--device", "cpu")
    stdout, stderr = command.communicate(timeout=120)
    assert (command.returncode, stderr) == (0, ""), stderr
    assert "OK      same bits from two threads" in stdout
    assert stdout.endswith("All is well.\n")
