# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from monai.transforms import LoadImage
from PIL import Image

from monai_segdiff.data import RGBReader
from monai_segdiff.exceptions import ImageError

WIDTH, HEIGHT = 23, 14


@pytest.fixture
def rgb() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def png_of_16_bits(values: np.ndarray) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def load(path: Path, **kwargs) -> np.ndarray:
    reader = RGBReader(**kwargs)
    return reader.get_data(reader.read(path))[0]


@pytest.mark.parametrize("name", ["a.png", "a.PNG", "a.tif", "a.TIFF"])
def test_lossless_formats(tmp_path, rgb, name):
    Image.fromarray(rgb).save(tmp_path / name)
    np.testing.assert_array_equal(load(tmp_path / name), rgb.swapaxes(0, 1))
    np.testing.assert_array_equal(load(tmp_path / name, reverse_indexing=False), rgb)


def test_lzw_tif(tmp_path, rgb):
    Image.fromarray(rgb).save(tmp_path / "pil.tif", compression="tiff_lzw")
    tifffile.imwrite(tmp_path / "plain.tif", rgb, photometric="rgb")
    for name in ("pil.tif", "plain.tif"):
        np.testing.assert_array_equal(load(tmp_path / name), rgb.swapaxes(0, 1))


def test_jpeg(tmp_path):
    Image.new("RGB", (WIDTH, HEIGHT), (180, 90, 140)).save(tmp_path / "a.JPG", quality=95)
    found = load(tmp_path / "a.JPG")
    assert found.shape == (WIDTH, HEIGHT, 3)
    assert np.abs(found.astype(int) - [180, 90, 140]).max() <= 3


def test_alpha_is_dropped_and_not_blended(tmp_path, rgb):
    alpha = np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 1), dtype=np.uint8)
    Image.fromarray(np.concatenate([rgb, alpha], axis=2)).save(tmp_path / "a.png")
    np.testing.assert_array_equal(load(tmp_path / "a.png"), rgb.swapaxes(0, 1))


@pytest.mark.parametrize("mode", ["L", "1", "LA", "P"])
def test_grey_and_palette_become_rgb(tmp_path, rgb, mode):
    source = Image.fromarray(rgb[..., 0])
    if mode == "1":
        source = source.point(lambda v: 255 if v > 127 else 0)
    picture = source.convert(mode)
    picture.save(tmp_path / "a.png", **({"transparency": bytes(range(256))} if mode == "P" else {}))
    expected = np.repeat(np.asarray(source)[..., None], 3, axis=2).swapaxes(0, 1)
    np.testing.assert_array_equal(load(tmp_path / "a.png"), expected)


def test_metadata_and_monai_loader(tmp_path, rgb):
    Image.fromarray(rgb).save(tmp_path / "a.png")
    image = LoadImage(reader=RGBReader(), ensure_channel_first=True)(tmp_path / "a.png")
    assert image.shape == (3, WIDTH, HEIGHT)
    assert image.meta["format"] == "PNG"
    assert image.meta["mode"] == "RGB"
    assert image.meta["spatial_shape"].tolist() == [WIDTH, HEIGHT]


def make_bad(case: str, folder: Path, rgb: np.ndarray) -> Path:
    path = folder / ("a.tif" if "tif" in case else "a.png")
    grey = rgb[..., 0].astype(np.uint16) * 200
    if case == "16-bit grey":
        Image.fromarray(grey).save(path)
    elif case == "16-bit rgb":
        path.write_bytes(png_of_16_bits(rgb.astype(np.uint16) * 200))
    elif case == "16-bit rgb tif":
        tifffile.imwrite(path, rgb.astype(np.uint16) * 200, photometric="rgb")
    elif case == "float tif":
        Image.fromarray(grey.astype(np.float32)).save(path)
    elif case == "cmyk tif":
        Image.fromarray(rgb).convert("CMYK").save(path)
    elif case == "seven channel tif":
        tifffile.imwrite(
            path, np.zeros((7, HEIGHT, WIDTH), np.uint8), photometric="minisblack", planarconfig="separate"
        )
    elif case == "stack tif":
        tifffile.imwrite(path, np.zeros((4, HEIGHT, WIDTH), np.uint8), photometric="minisblack")
    elif case in ("truncated", "truncated tif"):
        Image.fromarray(np.tile(rgb, (9, 9, 1))).save(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif case == "header only":
        Image.fromarray(rgb).save(path)
        path.write_bytes(path.read_bytes()[:40])
    elif case == "empty":
        path.touch()
    elif case == "text":
        path.write_text("not a picture")
    elif case == "folder":
        path.mkdir()
    return path


BAD = {
    "16-bit grey": "mode I;16",
    "16-bit rgb": "16 bits",
    "16-bit rgb tif": "RGB",
    "float tif": "mode F",
    "cmyk tif": "mode CMYK",
    "seven channel tif": "8-bit RGB",
    "stack tif": "stack of 4 pages",
    "truncated": "truncated",
    "truncated tif": "truncated",
    "header only": "cannot be decoded",
    "empty": "cannot be decoded",
    "text": "UnidentifiedImageError",
    "folder": "does not exist",
    "missing": "does not exist",
}


@pytest.mark.parametrize("case", BAD)
def test_bad_file_is_named_and_not_given_to_another_reader(tmp_path, rgb, case):
    path = make_bad(case, tmp_path, rgb)
    with pytest.raises(ImageError) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert BAD[case] in str(caught.value)
    with pytest.raises(ImageError):
        LoadImage(reader=RGBReader())(path)


def test_thumbnail_page_is_no_stack(tmp_path, rgb):
    with tifffile.TiffWriter(tmp_path / "a.tif") as tif:
        tif.write(rgb, photometric="rgb")
        tif.write(rgb[::2, ::2], photometric="rgb")
    np.testing.assert_array_equal(load(tmp_path / "a.tif"), rgb.swapaxes(0, 1))


def test_decompression_bomb_is_an_image_error(tmp_path, rgb, monkeypatch):
    Image.fromarray(rgb).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    with pytest.raises(ImageError, match="DecompressionBomb"):
        load(tmp_path / "a.png")


def test_a_stack_with_a_thumbnail_is_a_stack(tmp_path, rgb):
    pages = [Image.fromarray(rgb[::2, ::2]), Image.fromarray(rgb)]
    Image.fromarray(rgb).save(tmp_path / "a.tif", save_all=True, append_images=pages)
    with pytest.raises(ImageError, match="stack of 3 pages"):
        load(tmp_path / "a.tif")
    Image.fromarray(rgb).save(tmp_path / "a.tif", save_all=True, append_images=pages[:1])
    assert load(tmp_path / "a.tif").shape[1:] == (WIDTH, HEIGHT) or load(tmp_path / "a.tif").shape[:2] == (
        WIDTH,
        HEIGHT,
    )


def test_suffixes(tmp_path):
    assert RGBReader().verify_suffix(["a.TIF", "b.jpeg", Path("c.png")])
    assert not RGBReader().verify_suffix("a.png.nii.gz")
    Image.new("RGB", (4, 4)).save(tmp_path / "a.bmp")
    # By get_data: what read refuses, LoadImage would give to MONAI's own readers.
    with pytest.raises(ImageError, match=r"a\.bmp: not .* by its name"):
        LoadImage(reader=RGBReader())(tmp_path / "a.bmp")
