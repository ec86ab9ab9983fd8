# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from monai.transforms import LoadImage
from PIL import Image

from monai_segdiff.data import MaskReader
from monai_segdiff.exceptions import ImageError

WIDTH, HEIGHT = 21, 12


@pytest.fixture
def truth() -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[2:5, 1:9] = True
    mask[8, 20] = True
    return mask


def load(path: Path, **kwargs) -> np.ndarray:
    reader = MaskReader(**kwargs)
    return reader.get_data(reader.read(path))[0]


def colour(mask: np.ndarray, rgb: tuple[int, int, int]) -> np.ndarray:
    return mask[..., None].astype(np.uint8) * np.array(rgb, np.uint8)


def palette(mask: np.ndarray) -> Image.Image:
    image = Image.fromarray(mask.astype(np.uint8)).convert("P")
    image.putdata(mask.astype(np.uint8).ravel().tolist())
    image.putpalette([0, 0, 0, 0, 0, 128])
    return image


PICTURES = {
    "0 and 255": lambda m: Image.fromarray(m.astype(np.uint8) * 255),
    "0 and 1": lambda m: Image.fromarray(m.astype(np.uint8)),
    "one bit": lambda m: Image.fromarray(m.astype(np.uint8) * 255).convert("1"),
    "blue only": lambda m: Image.fromarray(colour(m, (0, 0, 1))),
    "opaque alpha": lambda m: Image.fromarray(np.dstack([colour(m, (9, 0, 0)), np.full(m.shape, 255, np.uint8)])),
    "palette": palette,
    "16-bit numbers": lambda m: Image.fromarray(m.astype(np.uint16) * 256),
    "low 16-bit numbers": lambda m: Image.fromarray(m.astype(np.uint16)),
}


@pytest.mark.parametrize("name", ["a.png", "a.TIF"])
@pytest.mark.parametrize("case", PICTURES)
def test_any_value_above_zero_is_foreground(tmp_path, truth, case, name):
    PICTURES[case](truth).save(tmp_path / name)
    found = load(tmp_path / name)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, truth.T)
    np.testing.assert_array_equal(load(tmp_path / name, reverse_indexing=False), truth)


@pytest.mark.parametrize("kind", ["<u2", ">u2", "<u4"])
def test_instance_numbers_of_tifffile(tmp_path, truth, kind):
    byteorder = kind[0]
    tifffile.imwrite(tmp_path / "a.tif", (truth * 513).astype(kind), byteorder=byteorder)
    np.testing.assert_array_equal(load(tmp_path / "a.tif"), truth.T)


def test_empty_mask_is_allowed(tmp_path, truth):
    Image.fromarray(np.zeros_like(truth, dtype=np.uint8)).save(tmp_path / "a.png")
    assert load(tmp_path / "a.png").max() == 0


def test_monai_loader_adds_the_channel(tmp_path, truth):
    PICTURES["blue only"](truth).save(tmp_path / "a.png")
    label = LoadImage(reader=MaskReader(), ensure_channel_first=True)(tmp_path / "a.png")
    assert label.shape == (1, WIDTH, HEIGHT)
    assert label.unique().tolist() == [0.0, 1.0]


def make_bad(case: str, path: Path, mask: np.ndarray) -> None:
    if case == "jpeg inside":
        Image.fromarray(mask.astype(np.uint8) * 255).save(path, format="JPEG")
    elif case == "float":
        tifffile.imwrite(path, mask.astype(np.float32))
    elif case == "16-bit colour":
        tifffile.imwrite(path, np.repeat(mask[..., None], 3, axis=2).astype(np.uint16), photometric="rgb")
    elif case == "cmyk":
        Image.fromarray(colour(mask, (1, 2, 3))).convert("CMYK").save(path)
    elif case == "truncated":
        noise = np.random.default_rng(0).integers(0, 255, (99, 99), dtype=np.uint8)
        Image.fromarray(noise).save(path)
        path.write_bytes(path.read_bytes()[:3000])
    elif case == "empty":
        path.touch()


BAD = {
    "jpeg inside": "JPEG",
    "float": "mode F",
    "16-bit colour": "RGB|decoded",
    "cmyk": "CMYK",
    "truncated": "truncated",
    "empty": "cannot be decoded",
    "missing": "does not exist",
}


@pytest.mark.parametrize("case", BAD)
def test_bad_file_is_named_and_not_given_to_another_reader(tmp_path, truth, case):
    path = tmp_path / "a.tif"
    make_bad(case, path, truth)
    with pytest.raises(ImageError, match=BAD[case]) as caught:
        load(path)
    assert str(path) in str(caught.value)
    with pytest.raises(ImageError):
        LoadImage(reader=MaskReader())(path)


def test_jpg_is_refused_by_its_name():
    with pytest.raises(ImageError, match=r"a\.jpg"):
        MaskReader().read("a.jpg")
    assert not MaskReader().verify_suffix("a.jpg")
