# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses
import json
import math
import re
import sys
from pathlib import Path
from typing import Any

import highdicom
import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from PIL import Image

from monai_segdiff import (
    Prediction,
    SaveOverlay,
    SegDiffPredictor,
)
from monai_segdiff.exceptions import BundleError
from monai_segdiff.io.prediction_writer import PredictionWriter

sys.path.insert(0, str(Path(__file__).parent))
from synthetic_series import write_series  # noqa: E402


def picture_file(path: Path, height: int = 90, width: int = 70) -> Path:
    """Coloured noise with a dark disc that is off the middle, so that a turned result cannot pass."""
    array = np.random.default_rng(0).integers(150, 256, (height, width, 3))
    rows, columns = np.indices((height, width))
    array[(rows - height // 4) ** 2 + (columns - width // 3) ** 2 < 64] = (80, 40, 120)
    Image.fromarray(array.astype(np.uint8)).save(path)
    return path


def volume_file(path: Path, shape: tuple[int, int, int] = (18, 23, 15)) -> Path:
    """Noise on an oblique grid, whose sform and qform differ and have codes of their own."""
    affine = np.array([[0.9, 0.3, 0.0, -20.0], [-0.2, 1.2, 0.1, 7.0], [0.1, 0.0, 1.5, 3.0], [0.0, 0.0, 0.0, 1.0]])
    volume = nib.Nifti1Image(np.random.default_rng(0).normal(100, 30, shape).astype(np.float32), affine)
    volume.set_sform(affine, code=4)
    volume.set_qform(np.diag([0.92, 1.24, 1.5, 1.0]), code=2)
    volume.header.set_xyzt_units("mm")
    volume.to_filename(path)
    return path


def run_bundle(bundle: Path, image: Path, output_dir: Path, **changes: Any) -> Path:
    """Do what ``python -m monai.bundle run inference`` does with one image."""
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "inference.json"))
    changes |= {"bundle_root": str(bundle), "device": "cpu", "dataset_dir": str(image), "output_dir": str(output_dir)}
    parser.update(changes)
    parser["handlers"] = parser["handlers"][:1]  # without the bar
    parser.get_parsed_content("evaluator").run()
    return output_dir


def read_picture(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


@pytest.fixture(scope="module")
def pictures(picture_bundle: Path) -> SegDiffPredictor:
    return SegDiffPredictor.from_bundle(picture_bundle, device="cpu")


@pytest.fixture(scope="module")
def volumes(volume_bundle: Path) -> SegDiffPredictor:
    return SegDiffPredictor.from_bundle(volume_bundle, device="cpu")


@pytest.fixture(scope="module")
def picture(pictures: SegDiffPredictor, tmp_path_factory: pytest.TempPathFactory) -> Prediction:
    return pictures.predict(picture_file(tmp_path_factory.mktemp("picture") / "a.png"))


@pytest.fixture(scope="module")
def volume(volumes: SegDiffPredictor, tmp_path_factory: pytest.TempPathFactory) -> Prediction:
    return volumes.predict(volume_file(tmp_path_factory.mktemp("volume") / "a.nii.gz"))


@pytest.fixture(scope="module")
def series(volumes: SegDiffPredictor, tmp_path_factory: pytest.TempPathFactory) -> tuple[Prediction, list[str]]:
    """Prediction of an oblique series, and the UIDs of its slices in the order of their positions."""
    written = write_series(tmp_path_factory.mktemp("series") / "1.2.840", plane="oblique", shape=(12, 14, 17))
    return volumes.predict(written.folder), written.uids


# What the bundle writes itself


@pytest.mark.parametrize("name", ["picture_bundle", "prior_bundle"])
def test_pictures_are_those_of_the_bundle(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    bundle = request.getfixturevalue(name)
    image = picture_file(tmp_path / "a.png")
    expected = run_bundle(bundle, image, tmp_path / "expected")
    predictor = SegDiffPredictor.from_bundle(bundle, device="cpu")
    PredictionWriter(predictor, tmp_path / "out", probability=True)(predictor.predict(image), "a")
    names = ["a_mask.png", "a_overlay.png", "a_probability.png"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    for name in names:
        assert (tmp_path / "out" / name).read_bytes() == (expected / name).read_bytes(), name
    assert set(np.unique(read_picture(expected / "a_mask.png"))) == {0, 255}


def test_volumes_are_those_of_the_bundle(volumes: SegDiffPredictor, volume_bundle: Path, tmp_path: Path) -> None:
    image = volume_file(tmp_path / "a.nii.gz")
    expected = nib.load(run_bundle(volume_bundle, image, tmp_path / "expected") / "a_seg.nii.gz")
    PredictionWriter(volumes, tmp_path / "out")(volumes.predict(image), "a")
    found = nib.load(tmp_path / "out" / "a_seg.nii.gz")
    assert found.header.binaryblock == expected.header.binaryblock
    assert np.array_equal(np.asarray(found.dataobj), np.asarray(expected.dataobj))
    assert set(np.unique(found.dataobj)) == {0, 1, 2}
    codes = [int(found.header[name]) for name in ("sform_code", "qform_code")]
    assert codes == [4, 2]


def test_the_entropy_is_that_of_the_bundle_where_nothing_is_resampled(
    volumes: SegDiffPredictor, volume_bundle: Path, tmp_path: Path
) -> None:
    nib.Nifti1Image(np.random.default_rng(0).normal(100, 30, (16, 20, 12)), np.eye(4)).to_filename(tmp_path / "a.nii")
    changes = {"uncertainty": True, "num_generations": 2}
    expected = run_bundle(volume_bundle, tmp_path / "a.nii", tmp_path / "expected", **changes)
    prediction = volumes.predict(tmp_path / "a.nii", num_generations=2)
    PredictionWriter(volumes, tmp_path / "out", uncertainty=True)(prediction, "a")
    found, wanted = (nib.load(folder / "a_entropy.nii.gz").get_fdata() for folder in (tmp_path / "out", expected))
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert 0 < found.mean() < math.log(3)


# What else can be asked for


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({}, {"mask.png", "overlay.png"}),
        ({"overlay": False}, {"mask.png"}),
        ({"overlay": False, "probability": True}, {"mask.png", "probability.png"}),
        ({"overlay": False, "uncertainty": True}, {"mask.png", "entropy.tif"}),
        ({"overlay": False, "geojson": True}, {"mask.png", "nuclei.geojson"}),
    ],
)
def test_only_what_is_asked_for_of_a_picture(
    pictures: SegDiffPredictor, picture: Prediction, settings: dict[str, bool], names: set[str], tmp_path: Path
) -> None:
    written = PredictionWriter(pictures, tmp_path / "a" / "b", **settings)(picture, "slide.1")
    assert written == sorted((tmp_path / "a" / "b").iterdir())
    assert {path.name for path in written} == {f"slide.1_{name}" for name in names}


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({}, {"seg.nii.gz", "overlay.png"}),
        ({"overlay": False, "probability": True}, {"seg.nii.gz", "probability.nii.gz"}),
        ({"overlay": False, "uncertainty": True}, {"seg.nii.gz", "entropy.nii.gz"}),
    ],
)
def test_only_what_is_asked_for_of_a_volume(
    volumes: SegDiffPredictor, volume: Prediction, settings: dict[str, bool], names: set[str], tmp_path: Path
) -> None:
    written = PredictionWriter(volumes, tmp_path, **settings)(volume, "scan.1")
    assert {path.name for path in written} == {f"scan.1_{name}" for name in names}
    assert set(tmp_path.iterdir()) == set(written)


def test_the_entropy_of_a_picture_is_not_rounded(
    pictures: SegDiffPredictor, picture: Prediction, tmp_path: Path
) -> None:
    PredictionWriter(pictures, tmp_path, uncertainty=True)(picture, "a")
    found = read_picture(tmp_path / "a_entropy.tif")
    assert found.dtype == np.float32
    assert np.array_equal(found, picture.uncertainty)


def test_probabilities_of_a_volume_lie_on_its_grid(
    volumes: SegDiffPredictor, volume: Prediction, tmp_path: Path
) -> None:
    PredictionWriter(volumes, tmp_path, probability=True, uncertainty=True)(volume, "a")
    image = nib.load(volume.source)
    probability, entropy = (nib.load(tmp_path / f"a_{name}.nii.gz") for name in ("probability", "entropy"))
    assert probability.get_data_dtype() == entropy.get_data_dtype() == np.float32
    assert np.array_equal(np.asarray(probability.dataobj), np.moveaxis(volume.probability, 0, -1))
    assert np.array_equal(np.asarray(entropy.dataobj), volume.uncertainty)
    for found in (probability, entropy):
        assert np.array_equal(found.affine, image.affine)
        assert np.array_equal(found.get_qform(), image.get_qform())


def test_the_overlay_of_a_volume_is_drawn_as_elsewhere(
    volumes: SegDiffPredictor, volume: Prediction, tmp_path: Path
) -> None:
    PredictionWriter(volumes, tmp_path / "out")(volume, "a")
    load = volumes.bundle.transforms().load
    image = load[0]({"image": volume.source})["image"][None]
    SaveOverlay(tmp_path)(image, volume.mask)
    assert np.array_equal(read_picture(tmp_path / "out" / "a_overlay.png"), read_picture(tmp_path / "a_overlay.png"))


def test_geojson_says_what_the_objects_are_and_what_made_them(
    pictures: SegDiffPredictor, picture: Prediction, tmp_path: Path
) -> None:
    PredictionWriter(pictures, tmp_path, geojson=True, pixel_size=0.5)(picture, "a")
    collection = json.loads((tmp_path / "a_nuclei.geojson").read_text())
    instances = pictures.separate_instances(picture)
    assert len(collection["features"]) == instances.max() > 0
    for number, feature in enumerate(collection["features"], start=1):
        inside = instances == number
        assert feature["properties"]["measurements"] == pytest.approx(
            {
                "Area px^2": inside.sum(),
                "Area µm^2": inside.sum() * 0.25,
                "Probability: Mean": picture.probability[0][inside].mean(dtype=np.float64),
                "Uncertainty (nats): Mean": picture.uncertainty[inside].mean(dtype=np.float64),
            },
            abs=1e-5,
        )
    assert collection["provenance"] == dataclasses.asdict(picture.provenance)


def test_a_series_becomes_dicom_segmentations(
    volumes: SegDiffPredictor, series: tuple[Prediction, list[str]], tmp_path: Path
) -> None:
    prediction, uids = series
    writer = PredictionWriter(volumes, tmp_path, probability=True, dicom_seg=True)
    names = ["overlay.png", "probability.dcm", "probability.nii.gz", "seg.dcm", "seg.nii.gz"]
    assert [path.name for path in writer(prediction, "1.2.840")] == [f"1.2.840_{name}" for name in names]
    binary, fractional = (highdicom.seg.segread(tmp_path / f"1.2.840_{name}.dcm") for name in ("seg", "probability"))
    assert (binary.SegmentationType, fractional.SegmentationType) == ("BINARY", "FRACTIONAL")
    labels = [binary.get_segment_description(number).segment_label for number in (1, 2)]
    assert labels == ["Anterior hippocampus", "Posterior hippocampus"]
    options = {"assert_missing_frames_are_empty": True}
    mask = binary.get_pixels_by_source_instance(uids, combine_segments=True, **options)
    assert np.array_equal(mask.transpose(2, 1, 0), prediction.mask)
    assert np.array_equal(np.asarray(nib.load(tmp_path / "1.2.840_seg.nii.gz").dataobj), prediction.mask)
    assert len(np.unique(mask)) > 1
    stored = fractional.get_pixels_by_source_instance(uids, **options)
    np.testing.assert_allclose(stored.transpose(3, 2, 1, 0), prediction.probability[1:], atol=1 / 509)
    np.testing.assert_allclose(nib.load(tmp_path / "1.2.840_seg.nii.gz").affine, prediction.affine, atol=1e-5)


def test_the_mask_alone_needs_no_probability_in_dicom(
    volumes: SegDiffPredictor, series: tuple[Prediction, list[str]], tmp_path: Path
) -> None:
    writer = PredictionWriter(volumes, tmp_path, overlay=False, dicom_seg=True)
    assert [path.name for path in writer(series[0], "a")] == ["a_seg.dcm", "a_seg.nii.gz"]


def test_a_long_name_of_a_bundle_is_cut_for_dicom(
    volumes: SegDiffPredictor,
    series: tuple[Prediction, list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(volumes.bundle.metadata, "name", "n" * 100)
    PredictionWriter(volumes, tmp_path, overlay=False, dicom_seg=True)(series[0], "a")
    description = highdicom.seg.segread(tmp_path / "a_seg.dcm").get_segment_description(1)
    assert description.SegmentationAlgorithmIdentificationSequence[0].AlgorithmName == "n" * 64


def test_a_picture_from_a_tensor_gives_the_files_of_the_array(
    pictures: SegDiffPredictor, picture: Prediction, tmp_path: Path
) -> None:
    array = read_picture(Path(picture.source))
    tensor = MetaTensor(torch.from_numpy(array.transpose(2, 1, 0).copy()).float())
    predictions = {"array": pictures.predict(array), "tensor": pictures.predict(tensor)}
    assert predictions["tensor"].mask.shape == predictions["array"].mask.shape[::-1] == (70, 90)
    kinds = {"overlay": False, "probability": True, "uncertainty": True, "geojson": True}
    for name, prediction in predictions.items():
        written = PredictionWriter(pictures, tmp_path / name, **kinds)(prediction, "a")
        assert len(written) == 4
    for path in (tmp_path / "array").iterdir():
        assert path.read_bytes() == (tmp_path / "tensor" / path.name).read_bytes(), path.name
    assert np.array_equal(read_picture(tmp_path / "tensor" / "a_mask.png"), picture.mask * 255)


# What cannot be


@pytest.mark.parametrize("name", ["", ".", "..", "../esc", "/abs", "sub/x", "sub/", "./a", "a\0b"])
def test_a_name_that_is_no_name_of_a_file(
    name: str, pictures: SegDiffPredictor, picture: Prediction, tmp_path: Path
) -> None:
    (tmp_path / "sub").mkdir()
    with pytest.raises(ValueError, match=f"name is {re.escape(repr(name))}; expected") as raised:
        PredictionWriter(pictures, tmp_path / "out", overlay=False)(picture, name)
    assert type(raised.value) is ValueError
    assert [path.name for path in tmp_path.rglob("*")] == ["sub"]


@pytest.mark.parametrize("name", ["...", ".a", "a.b", "a b", "\u00e4"])
def test_an_unusual_name(name: str, pictures: SegDiffPredictor, picture: Prediction, tmp_path: Path) -> None:
    assert PredictionWriter(pictures, tmp_path, overlay=False)(picture, name) == [tmp_path / f"{name}_mask.png"]


@pytest.mark.parametrize(
    ("predictor", "settings", "message"),
    [
        ("volumes", {"geojson": True}, "Bundle volumes does not tell nuclei in pictures apart"),
        ("pictures", {"dicom_seg": True}, "Bundle nuclei segments pictures; expected one for volumes"),
    ],
)
def test_a_bundle_that_cannot(
    predictor: str, settings: dict[str, bool], message: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    with pytest.raises(BundleError, match=message):
        PredictionWriter(request.getfixturevalue(predictor), tmp_path, **settings)


def test_a_bundle_without_instances_or_segments(
    pictures: SegDiffPredictor, volumes: SegDiffPredictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures.bundle, "make_instances", None)
    with pytest.raises(BundleError, match="does not tell nuclei in pictures apart"):
        PredictionWriter(pictures, tmp_path, geojson=True)
    monkeypatch.delitem(volumes.bundle.metadata, "segments")
    with pytest.raises(BundleError, match=r'metadata\.json of bundle volumes: "segments" is None'):
        PredictionWriter(volumes, tmp_path, dicom_seg=True)


def test_dicom_without_the_extra(volumes: SegDiffPredictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(ImportError, match=r"pip install 'monai_segdiff\[dicom\]'"):
        PredictionWriter(volumes, tmp_path, dicom_seg=True)


def test_dicom_of_what_was_no_series(volumes: SegDiffPredictor, volume: Prediction, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"scan: comes from no DICOM series"):
        PredictionWriter(volumes, tmp_path / "out", dicom_seg=True)(volume, "scan")
    assert not (tmp_path / "out").exists()


def test_several_classes_in_a_picture(pictures: SegDiffPredictor, picture: Prediction, tmp_path: Path) -> None:
    several = dataclasses.replace(picture, probability=np.repeat(picture.probability, 3, axis=0))
    with pytest.raises(ValueError, match=r"slide: has 3 classes; expected one"):
        PredictionWriter(pictures, tmp_path)(several, "slide")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("folder", ["mask", "overlay", "probability"])
def test_a_folder_in_the_way_leaves_all_older_results(
    folder: str, pictures: SegDiffPredictor, picture: Prediction, tmp_path: Path
) -> None:
    names = [f"a_{kind}.png" for kind in ("mask", "overlay", "probability")]
    for name in names:
        (tmp_path / name).write_text("older")
    in_the_way = tmp_path / f"a_{folder}.png"
    in_the_way.unlink()
    in_the_way.mkdir()
    with pytest.raises(IsADirectoryError, match=rf"a_{folder}\.png: is a folder; expected a file"):
        PredictionWriter(pictures, tmp_path, probability=True)(picture, "a")
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert [path.read_text() for path in tmp_path.iterdir() if path.is_file()] == ["older"] * 2


def test_a_link_to_a_folder_is_replaced_as_a_link_to_a_file_is(
    pictures: SegDiffPredictor, picture: Prediction, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "a_mask.png").symlink_to(tmp_path / "elsewhere")
    PredictionWriter(pictures, tmp_path, overlay=False)(picture, "a")
    assert not (tmp_path / "a_mask.png").is_symlink()
    assert np.array_equal(read_picture(tmp_path / "a_mask.png"), picture.mask * 255)


def test_a_failure_leaves_older_results_and_nothing_new(
    pictures: SegDiffPredictor, picture: Prediction, tmp_path: Path
) -> None:
    (tmp_path / "a_mask.png").write_text("older")
    in_memory = dataclasses.replace(picture, source=None)
    with pytest.raises(ValueError, match="was in memory"):  # the mask was written by then
        PredictionWriter(pictures, tmp_path, probability=True)(in_memory, "a")
    assert [path.name for path in tmp_path.iterdir()] == ["a_mask.png"]
    assert (tmp_path / "a_mask.png").read_text() == "older"
    written = PredictionWriter(pictures, tmp_path, overlay=False)(in_memory, "a")
    assert np.array_equal(read_picture(written[0]), picture.mask * 255)
