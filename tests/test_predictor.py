# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import builtins
import copy
import dataclasses
import hashlib
import json
import logging
import math
import pickle
import random
import shutil
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor, set_track_meta
from monai.transforms import LoadImage
from PIL import Image

from monai_segdiff import Prediction, SegDiffPredictor
from monai_segdiff.exceptions import (
    BundleError,
    CheckpointError,
    ImageError,
    PredictionCancelledError,
    PredictionTimeoutError,
)

ROOT = Path(__file__).parents[1]


def picture(height: int = 90, width: int = 70, seed: int = 0) -> np.ndarray:
    """Coloured noise with a dark disc that is off the middle, so that a turned result cannot pass."""
    rng = np.random.default_rng(seed)
    array = rng.integers(150, 256, (height, width, 3))
    rows, columns = np.indices((height, width))
    array[(rows - height // 4) ** 2 + (columns - width // 3) ** 2 < 64] = (80, 40, 120)
    return array.astype(np.uint8)


def volume(shape: tuple[int, int, int] = (18, 23, 15), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(100, 30, shape).astype(np.float32)


OBLIQUE = np.array([[0.9, 0.3, 0.0, -20.0], [-0.2, 1.2, 0.1, 7.0], [0.1, 0.0, 1.5, 3.0], [0.0, 0.0, 0.0, 1.0]])


@pytest.fixture(scope="module")
def pictures(picture_bundle: Path) -> SegDiffPredictor:
    return SegDiffPredictor.from_bundle(picture_bundle, device="cpu")


@pytest.fixture(scope="module")
def volumes(volume_bundle: Path) -> SegDiffPredictor:
    return SegDiffPredictor.from_bundle(volume_bundle, device="cpu")


def equal(first: Prediction, second: Prediction) -> bool:
    return all(
        np.array_equal(getattr(first, name), getattr(second, name)) for name in ("mask", "probability", "uncertainty")
    )


# What the result is


@pytest.mark.parametrize("size", [(90, 70), (70, 90), (33, 131), (5, 9), (2, 2)])
def test_a_picture_keeps_its_size_and_the_kinds_agree(
    pictures: SegDiffPredictor, size: tuple[int, int], tmp_path: Path
) -> None:
    array = picture(*size)
    path = tmp_path / "a.png"
    Image.fromarray(array).save(path)
    result = pictures.predict(path)
    assert result.mask.shape == size
    assert result.mask.dtype == np.uint8
    assert result.probability.shape == (1, *size)
    assert result.probability.dtype == result.uncertainty.dtype == np.float32
    assert np.array_equal(result.mask, result.probability[0] > 0.5)
    p = result.probability[0].astype(np.float64).clip(1e-12, 1 - 1e-12)
    entropy = -p * np.log(p) - (1 - p) * np.log(1 - p)
    np.testing.assert_allclose(result.uncertainty, entropy, atol=1e-6)
    assert result.uncertainty.max() <= math.log(2) + 1e-6
    assert (result.affine, result.spacing, result.labels) == (None, None, {1: "nuclei"})
    assert result.source == str(path)
    for same in (array, Image.fromarray(array), str(path), np.asfortranarray(array)):
        assert equal(result, pictures.predict(same))
    tensor = LoadImage(image_only=True, ensure_channel_first=True)(path)
    turned = pictures.predict(tensor)  # x first, as MONAI loads it
    assert (result.rows_first, turned.rows_first) == (True, False)
    assert np.array_equal(turned.probability, result.probability.swapaxes(1, 2))
    assert np.array_equal(turned.mask, result.mask.T)


def test_the_result_is_that_of_the_bundle(picture_bundle: Path, pictures: SegDiffPredictor, tmp_path: Path) -> None:
    Image.fromarray(picture()).save(tmp_path / "a.png")
    parser = ConfigParser()
    parser.read_config(str(picture_bundle / "configs" / "inference.json"))
    parser.update({"bundle_root": str(picture_bundle), "device": "cpu", "dataset_dir": str(tmp_path)})
    parser["output_dir"] = str(tmp_path / "out")
    parser["handlers"] = parser["handlers"][:1]
    parser.get_parsed_content("evaluator").run()
    result = pictures.predict(tmp_path / "a.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / "a_mask.png")), result.mask * 255)
    assert 0 < result.mask.mean() < 1


def test_volumes_keep_their_grid(volume_bundle: Path, volumes: SegDiffPredictor, tmp_path: Path) -> None:
    nib.Nifti1Image(volume(), OBLIQUE).to_filename(tmp_path / "a.nii.gz")
    result = volumes.predict(tmp_path / "a.nii.gz")
    assert result.mask.shape == (18, 23, 15)
    assert result.probability.shape == (3, 18, 23, 15)
    assert set(np.unique(result.mask)) <= {0, 1, 2}
    assert np.array_equal(result.mask, result.probability.argmax(0))
    assert np.array_equal(result.affine, nib.load(tmp_path / "a.nii.gz").affine)
    np.testing.assert_allclose(result.spacing, np.linalg.norm(OBLIQUE[:3, :3], axis=0), rtol=1e-6)
    assert result.labels == {1: "anterior", 2: "posterior"}
    assert equal(result, volumes.predict(MetaTensor(torch.from_numpy(volume()[None]), affine=result.affine.copy())))
    parser = ConfigParser()
    parser.read_config(str(volume_bundle / "configs" / "inference.json"))
    parser.update({"bundle_root": str(volume_bundle), "device": "cpu", "dataset_dir": str(tmp_path)})
    parser["output_dir"] = str(tmp_path / "out")
    parser["handlers"] = parser["handlers"][:1]
    parser.get_parsed_content("evaluator").run()
    assert np.array_equal(nib.load(tmp_path / "out" / "a_seg.nii.gz").get_fdata(), result.mask)


def test_an_array_of_a_volume_has_voxels_of_1_mm(volumes: SegDiffPredictor) -> None:
    result = volumes.predict(volume())
    assert np.array_equal(result.affine, np.eye(4))
    assert equal(result, volumes.predict(MetaTensor(torch.from_numpy(volume()[None]), affine=torch.eye(4))))
    assert equal(volumes.predict(np.rint(volume())), volumes.predict(np.rint(volume()).astype(">i2")))


def test_the_result_says_what_made_it(picture_bundle: Path, pictures: SegDiffPredictor) -> None:
    made = pictures.predict(picture(), num_inference_steps=2, num_generations=3, seed=5).provenance
    assert made.bundle == "nuclei"
    assert made.bundle_version == "0.1.0"
    assert made.weights_sha256 == hashlib.sha256((picture_bundle / "models" / "model.pt").read_bytes()).hexdigest()
    assert made.settings == {"num_inference_steps": 2, "num_generations": 3, "max_batch": None}
    config = picture_bundle / "configs" / "inference.json"
    assert made.config_sha256 == hashlib.sha256(config.read_bytes()).hexdigest()
    assert (made.seed, made.device, made.torch_version) == (5, "cpu", torch.__version__)
    assert made.package_version == "0.1.0"


def test_the_result_cannot_be_changed(pictures: SegDiffPredictor) -> None:
    result = pictures.predict(picture())
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.mask = result.mask  # type: ignore[misc]
    with pytest.raises(ValueError, match="read-only"):
        result.mask[0, 0] = 1


def test_settings_matter_and_defaults_are_the_bundle_s(pictures: SegDiffPredictor) -> None:
    plain = pictures.predict(picture())
    assert equal(plain, pictures.predict(picture(), num_inference_steps=1, num_generations=1, seed=0))
    for settings in ({"num_inference_steps": 2}, {"num_generations": 2}, {"seed": 1}):
        assert not equal(plain, pictures.predict(picture(), **settings))
    assert equal(plain, pictures.predict(picture()))


@pytest.mark.parametrize(
    "settings",
    [
        {"num_inference_steps": 0},
        {"num_inference_steps": 101},
        {"num_generations": 0},
        {"seed": -1},
        {"max_batch": 0},
    ],
)
def test_settings_out_of_range(pictures: SegDiffPredictor, settings: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        pictures.predict(picture(), **settings)


# Promises to services


def test_threads_get_the_serial_bits(pictures: SegDiffPredictor, volumes: SegDiffPredictor) -> None:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        affines = [np.diag([1 + 0.1 * i, 1, 1.5, 1]) for i in range(8)]
        images: list[tuple[SegDiffPredictor, Any]] = [(pictures, picture(60 + i, 50, i)) for i in range(8)]
        images += [
            (volumes, MetaTensor(torch.from_numpy(volume(seed=i)[None]), affine=torch.tensor(affines[i])))
            for i in range(8)
        ]
        serial = [predictor.predict(image, seed=i) for i, (predictor, image) in enumerate(images)]
        barrier = threading.Barrier(8, timeout=60)

        def work(i: int) -> Prediction:
            barrier.wait()
            predictor, image = images[i]
            return predictor.predict(image, seed=i)

        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(work, range(16)))
    finally:
        sys.setswitchinterval(before)
    assert all(equal(one, other) for one, other in zip(serial, found, strict=True))
    assert all(np.array_equal(one.affine, other.affine) for one, other in zip(serial[8:], found[8:], strict=True))


def test_the_second_call_loads_nothing(pictures: SegDiffPredictor, monkeypatch: pytest.MonkeyPatch) -> None:
    first = pictures.predict(picture())
    opened: list[Any] = []
    actual = builtins.open

    def spy(file: Any, *args: Any, **kwargs: Any) -> Any:
        opened.append(file)
        return actual(file, *args, **kwargs)

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("weights or configs are loaded again")

    monkeypatch.setattr(builtins, "open", spy)
    monkeypatch.setattr(torch, "load", refuse)
    monkeypatch.setattr(ConfigParser, "get_parsed_content", refuse)
    assert equal(first, pictures.predict(picture()))
    assert not [file for file in opened if "METADATA" not in str(file)]


def test_nothing_global_is_touched(
    pictures: SegDiffPredictor, volumes: SegDiffPredictor, capfd: pytest.CaptureFixture[str]
) -> None:
    def state() -> list[Any]:
        return [
            random.getstate(),
            str(np.random.get_state()),  # noqa: NPY002
            torch.random.get_rng_state().tolist(),
            torch.get_num_threads(),
            torch.backends.cudnn.benchmark,
            torch.backends.cudnn.deterministic,
            torch.are_deterministic_algorithms_enabled(),
            torch.get_default_dtype(),
            torch.is_grad_enabled(),
            logging.getLogger().level,
            list(logging.getLogger().handlers),
            list(sys.path),
            sys.excepthook,
            Path.cwd(),
        ]

    before = state()
    pictures.predict(picture())
    volumes.predict(volume())
    assert state() == before
    assert capfd.readouterr() == ("", "")
    for predictor in (pictures, volumes):
        assert not any(module.training for module in predictor.bundle.network.modules())
        assert all(parameter.grad is None for parameter in predictor.bundle.network.parameters())


def test_nothing_global_is_read(pictures: SegDiffPredictor, volumes: SegDiffPredictor) -> None:
    for predictor, image in ((pictures, picture()), (volumes, volume())):
        plain = predictor.predict(image)
        for context in (torch.autocast("cpu", torch.bfloat16), torch.no_grad(), torch.inference_mode()):
            with context:
                assert equal(plain, predictor.predict(image))
    set_track_meta(False)
    try:
        with pytest.raises(ValueError, match="set_track_meta"):
            volumes.predict(volume())
    finally:
        set_track_meta(True)
    torch.set_default_dtype(torch.float64)
    try:
        with pytest.raises(ValueError, match=r"default dtype is torch\.float64"):
            volumes.predict(volume())
    finally:
        torch.set_default_dtype(torch.float32)


def test_predictors_and_predictions_travel(pictures: SegDiffPredictor, volumes: SegDiffPredictor) -> None:
    """To other processes, as copies: a result cannot be changed there either."""
    for predictor, image in ((pictures, picture()), (volumes, volume())):
        result = predictor.predict(image)
        for again in (pickle.loads(pickle.dumps(predictor)), copy.deepcopy(predictor)):
            assert equal(result, again.predict(image))
        for twin in (pickle.loads(pickle.dumps(result)), copy.deepcopy(result)):
            assert equal(result, twin)
            assert twin.provenance == result.provenance
            with pytest.raises(ValueError, match="read-only"):
                twin.probability[:] = 0


def test_the_result_shares_nothing(pictures: SegDiffPredictor, volumes: SegDiffPredictor) -> None:
    tensor = MetaTensor(torch.from_numpy(volume()[None]), affine=torch.tensor(OBLIQUE))
    result = volumes.predict(tensor)
    with pytest.raises(ValueError, match="read-only"):
        result.affine[:] = 7
    result.meta["affine"][:] = 7
    result.labels[1] = "mine"  # type: ignore[index]
    assert np.array_equal(tensor.affine.numpy(), OBLIQUE)
    assert volumes.bundle.labels[1] == volumes.predict(tensor).labels[1] == "anterior"
    assert result in [pictures.predict(picture()), result]
    assert len({result, result}) == 1


def test_the_image_is_left_as_it_was(pictures: SegDiffPredictor, volumes: SegDiffPredictor) -> None:
    array = picture()
    kept = array.copy()
    pictures.predict(array)
    assert np.array_equal(array, kept)
    tensor = MetaTensor(torch.from_numpy(volume()[None]), affine=torch.tensor(OBLIQUE), meta={"mine": 1})
    volumes.predict(tensor)
    assert np.array_equal(tensor.numpy()[0], volume())
    assert tensor.meta["mine"] == 1
    assert not tensor.applied_operations


# Stopping


def test_cancel_within_one_step(pictures: SegDiffPredictor) -> None:
    calls: list[tuple[int, int]] = []

    def stop(done: int, total: int) -> None:
        calls.append((done, total))
        if done >= 2:
            raise PredictionCancelledError("stop")

    with pytest.raises(PredictionCancelledError, match="stop"):
        pictures.predict(picture(), num_inference_steps=5, progress=stop)
    assert [done for done, _ in calls] == [0, 0, 1, 2]
    assert calls[0][1] == calls[-1][1] > 5
    assert equal(pictures.predict(picture()), pictures.predict(picture()))


def test_progress_counts_to_the_end(pictures: SegDiffPredictor) -> None:
    calls: list[tuple[int, int]] = []
    pictures.predict(picture(30, 30), num_inference_steps=2, num_generations=3, progress=lambda *now: calls.append(now))
    assert calls == [(done, 6) for done in (0, *range(7))]  # once more after the encoding


def test_timeout_within_one_step(pictures: SegDiffPredictor, monkeypatch: pytest.MonkeyPatch) -> None:
    network, calls = pictures.bundle.network, []
    forward = network.forward

    def slow(*args: Any, **kwargs: Any) -> torch.Tensor:
        calls.append(1)
        time.sleep(0.1)
        return forward(*args, **kwargs)

    monkeypatch.setattr(network, "forward", slow)
    with pytest.raises(PredictionTimeoutError, match=r"The image: not done after 0\.35 s; \d of 20 calls"):
        pictures.predict(picture(30, 30), num_inference_steps=20, timeout_s=0.35)
    assert 1 <= len(calls) <= 4
    calls.clear()
    with pytest.raises(PredictionTimeoutError, match="0 of 20"):
        pictures.predict(picture(30, 30), num_inference_steps=20, timeout_s=0)
    assert not calls
    assert pictures.predict(picture(30, 30), timeout_s=60).mask.shape == (30, 30)


def test_without_steps_windows_are_where_it_stops(prior_bundle: Path) -> None:
    base_alone = SegDiffPredictor.from_bundle(prior_bundle, "cpu")
    calls: list[tuple[int, int]] = []

    def stop(done: int, total: int) -> None:
        calls.append((done, total))
        if len(calls) == 2:
            raise PredictionCancelledError

    with pytest.raises(PredictionCancelledError):
        base_alone.predict(picture(), num_inference_steps=0, progress=stop)
    assert calls == [(0, 0), (0, 0)]


def test_a_bar_is_shown_if_asked_for(pictures: SegDiffPredictor, capsys: pytest.CaptureFixture[str]) -> None:
    pictures.predict(picture(30, 30), num_inference_steps=3, progress=True)
    assert "3/3" in capsys.readouterr().err


# Many


def test_one_bad_file_does_not_stop_the_others(
    pictures: SegDiffPredictor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    Image.fromarray(picture(40, 30)).save(tmp_path / "good.png")
    images = [tmp_path / "bad.png", tmp_path / "good.png", tmp_path / "absent.png", picture(20, 25)]
    found = list(pictures.predict_many(images, seed=3))
    assert [item for item, _ in found] == images
    errors = [found[i][1] for i in (0, 2)]
    assert all(isinstance(error, ImageError) for error in errors)
    assert str(tmp_path / "bad.png") in str(errors[0])
    for i in (1, 3):
        result = found[i][1]
        assert isinstance(result, Prediction)
        assert equal(result, pictures.predict(images[i], seed=3))
    assert "4/4" in capsys.readouterr().err


def test_cancelling_ends_the_rest(pictures: SegDiffPredictor) -> None:
    asked: list[int] = []

    def images() -> Iterator[np.ndarray]:
        for i in range(3):
            asked.append(i)
            yield picture(30, 30)

    def stop(done: int, total: int) -> None:
        if len(asked) == 2:
            raise PredictionCancelledError("enough")

    found = pictures.predict_many(images(), progress=stop)
    assert isinstance(next(found)[1], Prediction)
    with pytest.raises(PredictionCancelledError, match="enough"):
        next(found)
    assert list(found) == []
    assert asked == [0, 1]


@pytest.mark.parametrize(
    ("images", "settings", "kind", "message"),
    [
        ("a.png", {}, TypeError, "images is one path, a.png"),
        (Path("a.png"), {}, TypeError, "images is one path"),
        ([], {"num_generations": 0}, ValueError, "num_generations"),
        ([], {"seed": "1"}, TypeError, "seed is '1'"),
        ([], {"stesp": 3}, TypeError, "stesp"),
    ],
)
def test_many_settings_are_checked_at_once(
    pictures: SegDiffPredictor, images: Any, settings: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        pictures.predict_many(images, **settings)


def test_kept_errors_hold_no_images(pictures: SegDiffPredictor) -> None:
    [(_, error)] = pictures.predict_many([picture()], timeout_s=0, progress=False)
    assert isinstance(error, PredictionTimeoutError)
    held = [
        value
        for frame, _ in traceback.walk_tb(error.__traceback__)
        if frame.f_code.co_filename.startswith(str(ROOT / "monai_segdiff"))
        for value in frame.f_locals.values()
        if isinstance(value, (torch.Tensor, dict))
    ]
    assert not held


# Instances


def test_objects_are_told_apart(pictures: SegDiffPredictor, volumes: SegDiffPredictor) -> None:
    two = np.zeros((1, 40, 60), dtype=np.float32)
    two[0, 10:25, 5:20] = two[0, 10:25, 30:45] = 0.9
    base = pictures.predict(picture())
    instances = pictures.separate_instances(dataclasses.replace(base, probability=two))
    assert instances.shape == (40, 60)
    assert sorted(np.unique(instances)) == [0, 1, 2]
    assert np.array_equal(instances > 0, two[0] > 0.5)
    with pytest.raises(BundleError, match="volumes does not separate objects"):
        volumes.separate_instances(volumes.predict(volume()))


# Bundles that cannot be used: see tests/io/test_bundle.py


@pytest.mark.parametrize("device", ["auto", "cpu", torch.device("cpu")])
def test_devices(picture_bundle: Path, device: Any) -> None:
    predictor = SegDiffPredictor.from_bundle(picture_bundle, device)
    expected = "cuda:0" if device == "auto" and torch.cuda.is_available() else "cpu"
    assert predictor.predict(picture(20, 20)).provenance.device == expected


@pytest.mark.parametrize("device", ["gpu", "meta", None, "cuda:99", 1.5])
def test_devices_that_are_not_there(picture_bundle: Path, device: Any) -> None:
    with pytest.raises(ValueError, match="device is .*, which cannot be used here .*; expected 'cpu' or 'auto'"):
        SegDiffPredictor.from_bundle(picture_bundle, device)


def test_paths_of_the_home_folder(
    picture_bundle: Path, pictures: SegDiffPredictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(picture_bundle.parent))
    predictor = SegDiffPredictor.from_bundle(f"~/{picture_bundle.name}", "cpu")
    Image.fromarray(picture(20, 30)).save(tmp_path / "a.png")
    monkeypatch.setenv("HOME", str(tmp_path))
    result = predictor.predict("~/a.png")
    assert result.source == str(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    assert predictor.predict("a.png").source == str(tmp_path / "a.png")
    with pytest.raises(ImageError, match="empty path"):
        predictor.predict("")


def test_from_bundle_names_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"inference\.json|metadata\.json"):
        SegDiffPredictor.from_bundle(tmp_path)
    with pytest.raises(CheckpointError, match="does not exist"):
        SegDiffPredictor.from_bundle(ROOT / "bundles" / "vaihingen")  # has no weights


# Memory

MEASURE = """
import resource, sys
import numpy as np
from monai_segdiff import SegDiffPredictor
predictor = SegDiffPredictor.from_bundle(sys.argv[1], "cpu")
predictor.predict(np.zeros((64, 64, 3), np.uint8))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
result = predictor.predict(np.zeros((6000, 6000, 3), np.uint8), num_inference_steps=0)
assert result.mask.shape == (6000, 6000)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / 6000**2)
"""


@pytest.mark.end_to_end
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has another unit elsewhere")
@pytest.mark.parametrize("image_scale", [0.512, 1.0])
def test_memory_of_6000_x_6000_pixels(prior_bundle: Path, tmp_path: Path, image_scale: float) -> None:
    """The bound that the documentation states: 90 bytes a pixel, beside what an idle predictor takes."""
    bundle = shutil.copytree(prior_bundle, tmp_path / "bundle")
    path = bundle / "configs" / "inference.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "image_scale": image_scale}))
    done = subprocess.run([sys.executable, "-c", MEASURE, str(bundle)], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) <= 90
