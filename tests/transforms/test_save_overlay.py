# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged
from PIL import Image

from monai_segdiff.transforms import SaveOverlay, SaveOverlayD, SaveOverlayd, SaveOverlayDict
from monai_segdiff.visualize import draw_volume_overlay
from monai_segdiff.visualize.overlay import MISSED_COLOR, PREDICTION_COLOR, TRUE_COLOR, draw_overlay

ROWS, COLUMNS = 40, 56


def where(picture: np.ndarray, color: tuple[int, ...]) -> np.ndarray:
    return (picture == np.array(color)).all(-1)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """A picture and a mask file, wider than high, with the object far right and near the top."""
    generator = np.random.default_rng(0)
    picture = generator.integers(0, 200, (ROWS, COLUMNS, 3), dtype=np.uint8)
    mask = np.zeros((ROWS, COLUMNS), np.uint8)
    mask[4:10, 40:52] = 1
    paths = {"image": tmp_path / "slide.01.png", "label": tmp_path / "mask.png"}
    Image.fromarray(picture).save(paths["image"])
    Image.fromarray(mask).save(paths["label"])
    return {name: str(path) for name, path in paths.items()}


def load(files: dict[str, str]) -> dict:
    steps = [LoadImaged(keys=["image", "label"], reader="PILReader"), EnsureChannelFirstd(keys=["image", "label"])]
    return Compose(steps)(files)


def test_round_trip(files: dict[str, str], tmp_path: Path) -> None:
    data = load(files)
    assert data["image"].shape == (3, COLUMNS, ROWS)
    data["pred"] = data["label"].clone()
    before = {key: value.clone() for key, value in data.items()}
    save = SaveOverlayd(keys="pred", image_key="image", label_key="label", output_dir=tmp_path / "a" / "out")
    result = save(data)
    written = tmp_path / "a" / "out" / "slide.01_overlay.png"
    assert [path.name for path in written.parent.iterdir()] == [written.name]
    picture = np.asarray(Image.open(written))
    assert picture.shape == (ROWS, COLUMNS, 3)
    line = where(picture, TRUE_COLOR)
    rows, columns = np.nonzero(line)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (4, 9, 40, 51)
    assert line.sum() == 2 * (6 + 12) - 4
    np.testing.assert_array_equal(picture[~line], np.asarray(Image.open(files["image"]))[~line])
    assert set(result) == set(before)
    assert all(torch.equal(result[key], before[key]) for key in before)


def test_without_label_and_with_misses(files: dict[str, str], tmp_path: Path) -> None:
    data = load(files)
    image = data["image"]
    array = SaveOverlay(tmp_path, output_postfix="plain", linewidth=2)
    assert array(image, data["label"][0]) is image
    plain = np.asarray(Image.open(tmp_path / "slide.01_plain.png"))
    assert where(plain, PREDICTION_COLOR).sum() == 6 * 12 - 2 * 8
    array(image, torch.zeros_like(data["label"]), data["label"])
    missed = np.asarray(Image.open(tmp_path / "slide.01_plain.png"))
    assert where(missed, MISSED_COLOR).sum() == 6 * 12 - 2 * 8
    expected = draw_overlay(image.numpy().swapaxes(1, 2), np.zeros((ROWS, COLUMNS)), data["label"][0].T, 2)
    np.testing.assert_array_equal(missed, expected)


def test_several_predictions(files: dict[str, str], tmp_path: Path) -> None:
    data = load(files)
    data["a"] = data["b"] = data["label"]
    SaveOverlayd(["a", "b"], output_dir=tmp_path / "out", output_postfix=["x", "y"])(data)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"slide.01_x.png", "slide.01_y.png"}
    SaveOverlayd("absent", output_dir=tmp_path / "out2", allow_missing_keys=True)(data)
    assert not (tmp_path / "out2").exists()
    with pytest.raises(ValueError, match="expected one for each key"):
        SaveOverlayd(["a", "b"])


def test_volumes(tmp_path: Path) -> None:
    affine = torch.diag(torch.tensor([1.0, 1.0, 2.0, 1.0], dtype=torch.float64))
    image = MetaTensor(torch.rand(1, 9, 8, 7), affine=affine, meta={"filename_or_obj": "folder/scan.01.nii.gz"})
    pred = torch.zeros(1, 9, 8, 7, dtype=torch.int64)
    pred[:, 2:6, 2:6, 2:6] = 2
    data = {"image": image, "pred": pred, "label": pred.roll(1, 1)}
    result = SaveOverlayd("pred", label_key="label", output_dir=tmp_path / "out", linewidth=2)(data)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["scan.01_overlay.png"]
    assert result["image"] is image
    draw_volume_overlay(tmp_path / "expected.png", image, pred, data["label"], (1, 1, 2), linewidth=2)
    assert (tmp_path / "out" / "scan.01_overlay.png").read_bytes() == (tmp_path / "expected.png").read_bytes()
    with pytest.raises(ValueError, match=r"scan\.01\.nii\.gz: no overlay drawn: prediction has shape"):
        SaveOverlay(tmp_path)(image, pred[..., 1:])


def test_aliases() -> None:
    assert SaveOverlayD is SaveOverlayDict is SaveOverlayd


def test_errors(files: dict[str, str], tmp_path: Path) -> None:
    data = load(files)
    save = SaveOverlay(tmp_path / "out")
    with pytest.raises(ValueError, match=r"slide\.01\.png: no overlay drawn .* prediction has shape"):
        save(data["image"], data["label"][:, 1:])
    with pytest.raises(ValueError, match=r"slide\.01\.png.* label has shape"):
        save(data["image"], data["label"], data["label"].transpose(1, 2))
    for image in (torch.zeros(3, 8, 8), MetaTensor(torch.zeros(3, 8, 8)), np.zeros((3, 8, 8))):
        with pytest.raises(ValueError, match="filename_or_obj"):
            save(image, torch.zeros(1, 8, 8))
    assert not (tmp_path / "out").exists()
