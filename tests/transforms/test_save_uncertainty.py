# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor, decollate_batch
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged
from PIL import Image

from monai_segdiff import (
    SaveUncertainty,
    SaveUncertaintyD,
    SaveUncertaintyd,
    SaveUncertaintyDict,
    SplitStatistics,
    SplitStatisticsd,
)
from monai_segdiff.visualize import draw_uncertainty

ROWS, COLUMNS = 40, 56
NAMES = ("probability", "standard_deviation", "entropy", "mutual_information")
LIMITS = (1.0, 0.5, 0.693)


def packed(channels: int, *size: int) -> torch.Tensor:
    """What an uncertainty inferer returns for one image."""
    generator = torch.Generator().manual_seed(0)
    parts = [limit * torch.rand(channels, *size, generator=generator) for limit in LIMITS]
    return torch.cat(parts)


def written(folder: Path, name: str = "scan.01_uncertainty.npz") -> list[np.ndarray]:
    arrays = read(folder / name)
    return [arrays[key] for key in NAMES]


def volume(**meta: str) -> MetaTensor:
    return MetaTensor(torch.zeros(1, 4, 5, 6), meta={"filename_or_obj": "scan.01.nii.gz", **meta})


def read(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as archive:
        return dict(archive)


@pytest.fixture
def data(tmp_path: Path) -> dict[str, Any]:
    """A picture wider than high and its label, an object far right and near the top, as MONAI loads them."""
    mask = np.zeros((ROWS, COLUMNS), np.uint8)
    mask[4:10, 40:52] = 1
    values = np.random.default_rng(0).integers(0, 200, (ROWS, COLUMNS, 3), dtype=np.uint8)
    paths = {"picture": str(tmp_path / "slide.01.png"), "label": str(tmp_path / "mask.png")}
    Image.fromarray(values).save(paths["picture"])
    Image.fromarray(mask).save(paths["label"])
    keys = ["picture", "label"]
    return Compose([LoadImaged(keys, reader="PILReader"), EnsureChannelFirstd(keys)])(paths)


def test_orientation(data: dict[str, Any], tmp_path: Path) -> None:
    """Files lie as the picture's own file does."""
    assert data["picture"].shape == (3, COLUMNS, ROWS)
    data["pred"] = torch.cat([value * data["label"] for value in (0.5, 0.4, 0.3)])
    out = tmp_path / "a" / "out"
    save = SaveUncertaintyd("pred", image_key="picture", label_key="label", output_dir=out)
    result = save(SplitStatisticsd("pred")(data))
    assert {path.name for path in out.iterdir()} == {"slide.01_uncertainty.npz", "slide.01_uncertainty.png"}
    arrays = read(out / "slide.01_uncertainty.npz")
    assert tuple(arrays) == NAMES
    for array, limit in zip(arrays.values(), (0.5, 0.4, np.log(2), 0.3), strict=True):
        assert array.dtype == np.float32
        assert array.shape == (1, ROWS, COLUMNS)
        assert array[0, 4:10, 40:52].tolist() == np.full((6, 12), limit, np.float32).tolist()
        assert np.count_nonzero(array) == 6 * 12
    picture = np.asarray(Image.open(data["picture"].meta["filename_or_obj"])).transpose(2, 0, 1)
    draw_uncertainty(tmp_path / "expected.png", picture, arrays, (arrays["probability"] > 0).astype(np.float32))
    assert (out / "slide.01_uncertainty.png").read_bytes() == (tmp_path / "expected.png").read_bytes()
    assert result["pred"].shape == (1, COLUMNS, ROWS)
    assert torch.equal(result["picture"], data["picture"])


@pytest.mark.parametrize("channels", [1, 2])
def test_round_trip_bit_for_bit(channels: int, data: dict[str, Any], tmp_path: Path) -> None:
    """A batch of an inferer, decollated by an engine, split, saved and read."""
    values = packed(channels, COLUMNS, ROWS)
    batch = {"pred": MetaTensor(values[None], meta=data["picture"].meta), "picture": data["picture"][None]}
    save = SaveUncertaintyd("pred", image_key="picture", output_dir=tmp_path / "out")
    for item in decollate_batch(batch):
        Compose([SplitStatisticsd("pred"), save])(item)
    found = written(tmp_path / "out", "slide.01_uncertainty.npz")
    for array, part in zip(found, SplitStatistics()(values), strict=True):
        assert array.tobytes() == part.numpy().swapaxes(-1, -2).tobytes()


@pytest.mark.parametrize("name", ["scan.01.nii.gz", "scan.01.nii", "folder/scan.01.mha"])
def test_volumes_make_no_picture(name: str, tmp_path: Path) -> None:
    values = packed(2, 4, 5, 6)
    image = volume(filename_or_obj=name)
    label = torch.zeros(1, 4, 5, 6)
    assert SaveUncertainty(tmp_path, "u")(image, *SplitStatistics()(values), label) is image
    assert [path.name for path in tmp_path.iterdir()] == ["scan.01_u.npz"]
    for array, part in zip(written(tmp_path, "scan.01_u.npz"), SplitStatistics()(values), strict=True):
        np.testing.assert_array_equal(array, part.numpy())


def test_classes_that_exclude_each_other_in_a_volume(tmp_path: Path) -> None:
    values = torch.rand(7, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    parts = SplitStatistics(categorical=True)(values)
    SaveUncertainty(tmp_path)(volume(), *parts)
    found = written(tmp_path)
    assert [len(array) for array in found] == [3, 3, 1, 1]
    for array, part in zip(found, parts, strict=True):
        np.testing.assert_array_equal(array, part.numpy())
    with pytest.raises(ValueError, match=r"standard_deviation has shape \(1, 4, 5, 6\)"):
        SaveUncertainty(tmp_path)(volume(), values[:3], values[3:4], values[5:6], values[6:])


def test_label_and_threshold_reach_the_picture(data: dict[str, Any], tmp_path: Path) -> None:
    parts = SplitStatistics()(packed(1, COLUMNS, ROWS))
    pages = []
    for threshold, label in ((0.5, None), (0.9, None), (0.5, data["label"]), (0.5, data["label"][0])):
        SaveUncertainty(tmp_path / "out", threshold=threshold)(data["picture"], *parts, label)
        pages.append((tmp_path / "out" / "slide.01_uncertainty.png").read_bytes())
    assert len(set(pages)) == 3
    assert pages[2] == pages[3]


def test_half_precision_and_arrays(tmp_path: Path) -> None:
    parts = SplitStatistics()(packed(1, 4, 5, 6))
    for kind in (lambda part: part.to(torch.bfloat16), lambda part: part.numpy()):
        given = [kind(part) for part in parts]
        SaveUncertainty(tmp_path)(volume(), *given)
        for array, part in zip(written(tmp_path), given, strict=True):
            np.testing.assert_array_equal(array, torch.as_tensor(part).float().numpy())


def test_several_predictions(tmp_path: Path) -> None:
    data = SplitStatisticsd(["a", "b"])({"image": volume(), "a": packed(1, 4, 5, 6), "b": 0 * packed(1, 4, 5, 6)})
    SaveUncertaintyd(["a", "b"], output_dir=tmp_path, output_postfix=["x", "y"])(data)
    assert read(tmp_path / "scan.01_x.npz")["probability"].any()
    assert not read(tmp_path / "scan.01_y.npz")["probability"].any()
    SaveUncertaintyd("absent", output_dir=tmp_path / "out", allow_missing_keys=True)(data)
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="expected one for each key"):
        SaveUncertaintyd(["a", "b"])
    assert SaveUncertaintyD is SaveUncertaintyDict is SaveUncertaintyd


@pytest.mark.parametrize("absent", ["image", "label", "pred", "pred_standard_deviation", "pred_mutual_information"])
def test_missing_keys(absent: str, tmp_path: Path) -> None:
    data = SplitStatisticsd("pred")({"image": volume(), "label": torch.zeros(1), "pred": packed(1, 4, 5, 6)})
    del data[absent]
    with pytest.raises(KeyError, match=absent):
        SaveUncertaintyd("pred", label_key="label", output_dir=tmp_path / "out")(data)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"img": torch.zeros(1, 4, 5, 6)}, "filename_or_obj"),
        ({"img": volume()[..., 1:]}, r"scan\.01\.nii\.gz: probability has shape .* image \(1, 4, 5, 5\)"),
        ({"img": volume()[0, 0]}, r"scan\.01\.nii\.gz: probability has shape"),
        ({"entropy": torch.zeros(2, 4, 5, 6)}, r"scan\.01\.nii\.gz: entropy has shape \(2, 4, 5, 6\), probability"),
        ({"mutual_information": torch.zeros(1, 4, 5)}, "mutual_information has shape"),
    ],
)
def test_errors(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    mean, *others = SplitStatistics()(packed(1, 4, 5, 6))
    given = {"img": volume(), "mean": mean, **dict(zip(NAMES[1:], others, strict=True)), **change}
    with pytest.raises(ValueError, match=message):
        SaveUncertainty(tmp_path / "out")(**given)
    assert not (tmp_path / "out").exists()


def test_nothing_is_written_if_the_picture_cannot_be_drawn(data: dict[str, Any], tmp_path: Path) -> None:
    parts = SplitStatistics()(packed(1, COLUMNS, ROWS))
    with pytest.raises(ValueError, match=r"slide\.01\.png: no uncertainty drawn .* truth has shape \(1, 56, 40\)"):
        SaveUncertainty(tmp_path / "out")(data["picture"], *parts, data["label"].transpose(1, 2))
    assert not (tmp_path / "out").exists()
