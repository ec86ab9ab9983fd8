# SPDX-License-Identifier: Apache-2.0
"""What a caller of the predictor sees of every unsuitable image; the table in docs/bad_inputs.md is made from here."""

from __future__ import annotations

import os
import pickle
import re
import shutil
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import pytest
import tifffile
import torch
from monai.data import MetaTensor
from PIL import Image

from monai_segdiff import SegDiffPredictor, VolumeReader
from monai_segdiff.io.dicom_seg import write_dicom_seg
from monai_segdiff.io.dicom_series import read_dicom_series
from monai_segdiff.io.read_geojson import read_geojson
from monai_segdiff.io.segment_code import segments_of_metadata

sys.path.insert(0, str(Path(__file__).parent / "io"))
from synthetic_series import write_series  # noqa: E402

PAGE = Path(__file__).parents[1] / "docs" / "bad_inputs.md"
UPDATE = "UPDATE_DOCS"  # environment variable: write the page anew
RGB = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
VOLUME = np.random.default_rng(0).normal(100, 20, (12, 14, 10)).astype(np.float32)


class Predictors(NamedTuple):
    """Of the two bundles that the cases are given to, and their folders."""

    pictures: SegDiffPredictor
    volumes: SegDiffPredictor
    picture_bundle: Path


@pytest.fixture(scope="module")
def predictors(picture_bundle: Path, volume_bundle: Path) -> Predictors:
    pictures, volumes = (SegDiffPredictor.from_bundle(path, "cpu") for path in (picture_bundle, volume_bundle))
    return Predictors(pictures, volumes, picture_bundle)


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # so that the messages name files alone


def png_of_16_bit_colours() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in RGB.astype(np.uint16) * 257)
    header = struct.pack(">IIBBBBB", 32, 24, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def save(name: str, image: Any, **options: Any) -> str:
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(name, **options)
    return name


def truncated(name: str, share: float = 0.5) -> str:
    content = Path(name).read_bytes()
    Path(name).write_bytes(content[: int(len(content) * share)])
    return name


def exif(orientation: int) -> Image.Exif:
    found = Image.Exif()
    found[0x0112] = orientation
    return found


def nifti(name: str, array: np.ndarray, affine: np.ndarray | None = None) -> str:
    nib.Nifti1Image(array, np.eye(4) if affine is None else affine).to_filename(name)
    return name


def written(name: str, content: bytes) -> str:
    Path(name).write_bytes(content)
    return name


def series(name: str, **options: Any) -> str:
    write_series(Path(name), shape=(10, 14, 12), **options)
    return name


def without_orientation() -> str:
    image = nib.Nifti1Image(VOLUME, np.eye(4))
    image.set_sform(None, code=0)
    image.set_qform(None, code=0)
    image.to_filename("plain.nii.gz")
    return "plain.nii.gz"


def missing_slice() -> str:
    made = write_series(Path("gap"), shape=(10, 14, 12))
    made.paths[4].unlink()
    return "gap"


def mixed_series() -> str:
    write_series(Path("mixed"), shape=(10, 14, 12), series_uid="1.2.3", prefix="A")
    write_series(Path("mixed"), shape=(10, 14, 12), series_uid="1.2.4", prefix="B", seed=1)
    return "mixed"


def doubled_slice() -> str:
    made = write_series(Path("doubled"), shape=(10, 14, 12))
    shutil.copy(made.paths[3], made.folder / "copy.dcm")
    return "doubled"


def damaged_slice() -> str:
    made = write_series(Path("damaged"), shape=(10, 14, 12))
    truncated(str(made.paths[0]), 0.9)
    return "damaged"


def bundle_with_weights(predictors: Predictors, content: Any) -> str:
    shutil.copytree(predictors.picture_bundle, "bundle")
    Path("bundle/models/model.pt").write_bytes(pickle.dumps(content, protocol=2))
    return "bundle"


class Code:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("ran",)


def picture(make: Callable[[], Any]) -> Callable[[Predictors], Any]:
    return lambda predictors: predictors.pictures.predict(make())


def volume(make: Callable[[], Any]) -> Callable[[Predictors], Any]:
    return lambda predictors: predictors.volumes.predict(make())


def opened(make: Callable[[Predictors], Any]) -> Callable[[Predictors], Any]:
    return lambda predictors: SegDiffPredictor.from_bundle(make(predictors), "cpu")


def undeclared_label(predictors: Predictors) -> None:
    read = read_dicom_series(series("mr"))
    mask = np.full(read.image.shape[1:], 7, dtype=np.uint8)
    segments = segments_of_metadata(predictors.volumes.bundle.metadata, "metadata.json")
    write_dicom_seg(
        "a.dcm", mask, read, segments, algorithm="a", provenance=predictors.volumes.predict(VOLUME).provenance
    )


def label_map(predictors: Predictors) -> None:
    reader = VolumeReader(num_classes=3)
    reader.get_data(reader.read(nifti("labels.nii.gz", np.full((4, 4, 4), 7, np.uint8))))


ACCEPTED: dict[str, Callable[[], Any]] = {
    "grey picture": lambda: save("grey.png", RGB[..., 0]),
    "RGBA picture (the alpha channel is dropped)": lambda: save("a.png", np.dstack([RGB, np.full((24, 32), 7, "u1")])),
    "palette picture": lambda: save("a.png", Image.fromarray(RGB).quantize(16)),
    "picture with EXIF data but upright": lambda: save("a.jpg", RGB, exif=exif(1)),
    "TIFF with an orientation (PIL turns the pixels)": lambda: save("a.tif", RGB, exif=exif(6)),
}

REFUSED: dict[str, Callable[[Predictors], Any]] = {
    "no such file": picture(lambda: "absent.png"),
    "empty file": picture(lambda: written("empty.png", b"")),
    "truncated PNG": picture(lambda: truncated(save("cut.png", RGB))),
    "truncated JPEG": picture(lambda: truncated(save("cut.jpg", RGB))),
    "something else named .png": picture(lambda: written("text.png", b"no picture")),
    "another suffix": picture(lambda: save("a.bmp", RGB)),
    "grey picture of 16 bits": picture(lambda: save("deep.png", RGB[..., 0].astype(np.uint16) * 257)),
    "PNG of 16 bits a colour": picture(lambda: written("deep.png", png_of_16_bit_colours())),
    "TIFF of 16 bits a colour": picture(lambda: tifffile.imwrite("deep.tif", RGB.astype(np.uint16)) or "deep.tif"),
    "CMYK picture": picture(lambda: save("print.jpg", Image.fromarray(RGB).convert("CMYK"))),
    "float picture": picture(lambda: save("float.tif", RGB[..., 0].astype(np.float32))),
    "picture that EXIF turns": picture(lambda: save("phone.jpg", RGB, exif=exif(6))),
    "stack of pages": picture(lambda: save("stack.tif", RGB, save_all=True, append_images=[Image.fromarray(RGB)])),
    "folder for a picture": picture(lambda: os.mkdir("folder") or "folder"),
    "picture too small for the bundle's scale": picture(lambda: save("dot.png", RGB[:1, :1])),
    "array of zero size": picture(lambda: RGB[:0]),
    "array of floats for a picture": picture(lambda: RGB / 255),
    "tensor with NaN": picture(lambda: torch.full((3, 24, 32), float("nan"))),
    "tensor of two channels": picture(lambda: torch.zeros(2, 24, 32)),
    "something else": picture(lambda: {"image": RGB}),
    "NIfTI for a picture": picture(lambda: nifti("a.nii.gz", VOLUME)),
    "picture for a volume": volume(lambda: save("a.png", RGB)),
    "truncated NIfTI": volume(lambda: truncated(nifti("cut.nii.gz", VOLUME))),
    "NaN in a NIfTI": volume(lambda: nifti("nan.nii.gz", np.where(VOLUME > 120, np.nan, VOLUME).astype(np.float32))),
    "NIfTI without orientation": volume(without_orientation),
    "NIfTI of several volumes": volume(lambda: nifti("time.nii.gz", np.stack([VOLUME, VOLUME], -1))),
    "volume of zero size": volume(lambda: VOLUME[:0]),
    "infinity in a tensor": volume(lambda: MetaTensor(torch.full((1, 12, 12, 12), float("inf")))),
    "folder without DICOM": volume(lambda: os.mkdir("folder") or "folder"),
    "DICOM of another modality": volume(lambda: series("ct", modality="CT", series_uid="1.2.3")),
    "missing slice": volume(missing_slice),
    "several series in one folder": volume(mixed_series),
    "two slices at one place": volume(doubled_slice),
    "truncated slice": volume(damaged_slice),
    "label that is not declared (DICOM-SEG)": undeclared_label,
    "label that is not declared (label map)": label_map,
    "GeoJSON that is none": lambda predictors: read_geojson(written("a.geojson", b"{"), (4, 4)),
    "no such bundle": opened(lambda predictors: "nowhere"),
    "weights that would run code": opened(lambda predictors: bundle_with_weights(predictors, Code())),
    "no generations": lambda predictors: predictors.pictures.predict(RGB, num_generations=0),
    "more steps than the model has": lambda predictors: predictors.pictures.predict(RGB, num_inference_steps=1000),
    "no time": lambda predictors: predictors.pictures.predict(RGB, timeout_s=0),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_accepted(name: str, predictors: Predictors) -> None:
    path = ACCEPTED[name]()
    with Image.open(path) as image:
        assert predictors.pictures.predict(path).mask.shape == image.size[::-1]


@pytest.fixture(scope="module")
def rows() -> dict[str, tuple[str, str]]:
    return {}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, predictors: Predictors, rows: dict[str, tuple[str, str]]) -> None:
    with pytest.raises(Exception) as raised:  # noqa: PT011  (which one is compared with the page)
        REFUSED[name](predictors)
    kind = type(raised.value)
    assert kind.__module__ == "monai_segdiff.exceptions" or kind in (ValueError, TypeError), repr(raised.value)
    message = str(raised.value)
    given = [path.name for path in Path().iterdir()]
    assert not given or name.startswith("label that is not declared (D") or any(file in message for file in given)
    assert "ran" not in given
    assert not [path for path in Path().rglob("*") if path.name == "a.dcm" or path.name.startswith(".")], "half-written"
    rows[name] = (kind.__name__, message)


def test_the_page_says_so(rows: dict[str, tuple[str, str]]) -> None:
    """The table in the docs is what was just seen; words of other libraries, in brackets, may change."""
    if len(rows) < len(REFUSED):
        pytest.skip("only a part of the cases was run")
    lines = ["| given | error | message |", "|---|---|---|"]
    for name, (kind, message) in rows.items():
        shown = re.sub(r"\s+", " ", message.replace(str(Path.cwd().parent), "")).replace("|", "\\|")
        shown = re.sub(r"0x[0-9a-f]+", "0x..", re.sub(r"/test_refused\w*/", "", shown))
        shown = shown if len(shown) < 400 else shown[:400] + " ..."
        lines.append(f"| {name} | `{kind}` | {shown} |")
    accepted = ["| given |", "|---|", *(f"| {name} |" for name in ACCEPTED)]
    text = PAGE.read_text(encoding="utf-8")
    head, tail = text.split("<!-- table -->")[0], text.split("<!-- end -->")[-1]
    made = "\n".join([head.rstrip(), "", "<!-- table -->", *lines, "", "Taken without a word:", "", *accepted])
    made += f"\n<!-- end -->{tail}"
    if os.environ.get(UPDATE):
        PAGE.write_text(made, encoding="utf-8")

    def without_brackets(page: str) -> str:
        return re.sub(r"\([^()]*(\([^()]*\)[^()]*)*\)", "()", page)

    assert without_brackets(text) == without_brackets(made), f"set {UPDATE}=1 and run this file to write the page anew"
