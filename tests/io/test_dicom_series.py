# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses
import itertools
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import itk
import numpy as np
import pydicom
import pytest
import torch
from monai.data import ITKReader, MetaTensor
from monai.transforms import Compose, EnsureChannelFirst, LoadImage
from pydicom.uid import JPEG2000Lossless, JPEGLosslessSV1, RLELossless, generate_uid

from monai_segdiff.exceptions import SeriesError
from monai_segdiff.io.dicom_series import read_dicom_series

sys.path.insert(0, str(Path(__file__).parent))
from synthetic_series import PLANES, SyntheticSeries, write_series  # noqa: E402

KINDS: dict[str, dict[str, Any]] = {
    **{plane: {"plane": plane} for plane in PLANES},
    "reversed": {"reverse": True, "plane": "double oblique"},
    "gapped": {"step": 4.5, "thickness": 3.0},
    "thickness is another": {"step": 1.5, "thickness": 3.0, "modality": "CT"},
    "without thickness": {"thickness": None, "modality": "CT"},
    "signed CT": {"modality": "CT", "signed": True, "slope": 1.0, "intercept": -1024.0},
    "fractional slope": {"slope": 0.37, "intercept": -12.5},
    "two slices": {"shape": (2, 3, 4)},
    "one slice": {"shape": (1, 5, 4), "thickness": 2.0},
}


def assert_equal(found: Any, expected: SyntheticSeries) -> None:
    """Every voxel has the value and the place that the header gives its pixel, by hand."""
    slices, rows, columns = expected.stored.shape
    assert found.image.shape == (1, columns, rows, slices)
    assert found.image.dtype == torch.float32
    assert found.image.affine.dtype == torch.float64
    values = (expected.stored.astype(np.float64) * expected.slope + expected.intercept).astype(np.float32)
    np.testing.assert_array_equal(found.image[0].numpy(), values.transpose(2, 1, 0))
    for k, r, c in itertools.product(range(slices), range(rows), range(columns)):
        world = found.image.affine.numpy() @ [c, r, k, 1]
        np.testing.assert_allclose(world[:3], expected.world(k, r, c), atol=1e-9)
    assert found.files == tuple(expected.paths)
    assert found.instance_uids == tuple(expected.uids)


@pytest.mark.parametrize("kind", KINDS)
def test_voxels_and_places(kind: str, tmp_path: Path) -> None:
    expected = write_series(tmp_path / "series", **KINDS[kind])
    found = read_dicom_series(expected.folder)
    assert_equal(found, expected)
    header = pydicom.dcmread(expected.paths[0])
    assert (found.series_uid, found.modality) == (header.SeriesInstanceUID, header.Modality)
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.modality = "US"


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "one slice"])
def test_same_volume_as_monai_reads(kind: str, tmp_path: Path) -> None:
    folder = write_series(tmp_path / "series", **KINDS[kind]).folder
    load = Compose([LoadImage(ITKReader(), image_only=True), EnsureChannelFirst()])
    expected, found = load(str(folder)), read_dicom_series(str(folder)).image
    assert isinstance(found, MetaTensor)
    torch.testing.assert_close(found.as_tensor(), expected.as_tensor(), rtol=1e-6, atol=0)
    torch.testing.assert_close(found.affine, expected.affine, rtol=0, atol=1e-9)
    torch.testing.assert_close(found.pixdim, expected.pixdim, rtol=0, atol=1e-9)
    for name in ("space", "filename_or_obj"):
        assert found.meta[name] == expected.meta[name]
    np.testing.assert_allclose(found.meta["original_affine"], expected.meta["original_affine"], atol=1e-9)
    np.testing.assert_array_equal(found.meta["spatial_shape"], expected.meta["spatial_shape"])


def test_rescale_of_each_slice(tmp_path: Path) -> None:
    def change(k: int, data: pydicom.Dataset) -> None:
        data.RescaleSlope, data.RescaleIntercept = str(k + 0.5), str(-10 * k)

    series = write_series(tmp_path, change=change)
    found = read_dicom_series(tmp_path).image[0].numpy()
    for k, stored in enumerate(series.stored):
        np.testing.assert_array_equal(found[:, :, k], stored.T * np.float32(k + 0.5) - 10 * k)


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLosslessSV1, JPEG2000Lossless])
def test_compressed_pixels(syntax: pydicom.uid.UID, tmp_path: Path) -> None:
    def compress(k: int, data: pydicom.Dataset) -> None:
        if syntax == RLELossless:
            data.compress(RLELossless, generate_instance_uid=False)
            return
        encoder = itk.GDCMImageIO.New()
        encoder.SetCompressionType(kinds[syntax])
        slice_ = itk.image_from_array(np.frombuffer(data.PixelData, "<u2").reshape(data.Rows, data.Columns))
        name = str(tmp_path / f"{k}.dcm")
        writer = itk.ImageFileWriter[type(slice_)].New(slice_, ImageIO=encoder, FileName=name)
        writer.UseCompressionOn()
        writer.Update()
        compressed = pydicom.dcmread(name)
        assert compressed.file_meta.TransferSyntaxUID == syntax
        data.file_meta.TransferSyntaxUID, data.PixelData = syntax, compressed.PixelData
        data["PixelData"].is_undefined_length = True

    enums = itk.GDCMImageIOEnums
    kinds = {JPEGLosslessSV1: enums.Compression_JPEG, JPEG2000Lossless: enums.Compression_JPEG2000}
    # GDCM does not read RLE of a few pixels.
    expected = write_series(tmp_path / "series", shape=(3, 40, 32), slope=1.5, change=compress)
    assert_equal(read_dicom_series(expected.folder), expected)


def test_names_without_a_suffix(tmp_path: Path) -> None:
    expected = write_series(tmp_path)
    renamed = [path.rename(path.with_suffix("")) for path in expected.paths]
    assert_equal(read_dicom_series(tmp_path), dataclasses.replace(expected, paths=renamed))


def test_one_series_of_several(tmp_path: Path) -> None:
    first = write_series(tmp_path, prefix="A", seed=1)
    second = write_series(tmp_path, prefix="B", seed=2)
    third = write_series(tmp_path, prefix="C", seed=3, modality="CT", shape=(3, 4, 4))
    uids = [str(pydicom.dcmread(series.paths[0]).SeriesInstanceUID) for series in (first, second, third)]
    assert_equal(read_dicom_series(tmp_path, series_uid=uids[1]), second)
    assert_equal(read_dicom_series(tmp_path, modality="CT"), third)
    assert_equal(read_dicom_series(tmp_path, modality="MR", series_uid=uids[0]), first)
    for choice in ({}, {"modality": "MR"}):
        with pytest.raises(SeriesError, match="3 series.*series_uid") as caught:
            read_dicom_series(tmp_path, **choice)
        assert str(tmp_path) in str(caught.value)
        assert all(uid in str(caught.value) for uid in uids)
    with pytest.raises(SeriesError, match="expected one series with the UID 1.2.3"):
        read_dicom_series(tmp_path, series_uid="1.2.3")
    with pytest.raises(SeriesError, match=r"CT, 3 files.*expected one series of the modality MR with the UID"):
        read_dicom_series(tmp_path, modality="MR", series_uid=uids[2])


def setting(index: int | None, **values: Any) -> Callable[[int, pydicom.Dataset], None]:
    """Set elements of slice ``index``, of all for None; None deletes them."""

    def change(k: int, data: pydicom.Dataset) -> None:
        for name, value in values.items() if index in (None, k) else ():
            if value is None:
                del data[name]
            else:
                setattr(data, name, value)

    return change


def shifted(amount: float) -> Callable[[int, pydicom.Dataset], None]:
    """Move each slice in its plane, more and more, as a tilted gantry does."""

    def change(k: int, data: pydicom.Dataset) -> None:
        x, y, z = data.ImagePositionPatient
        data.ImagePositionPatient = [x, float(y) + amount * k, z]

    return change


def colour(k: int, data: pydicom.Dataset) -> None:
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PlanarConfiguration = 3, "RGB", 0
    data.BitsAllocated, data.BitsStored, data.HighBit = 8, 8, 7
    data.PixelData = bytes(data.Rows * data.Columns * 3)


def floating(name: str, bits: int) -> Callable[[int, pydicom.Dataset], None]:
    def change(k: int, data: pydicom.Dataset) -> None:
        del data.PixelData, data.PixelRepresentation, data.BitsStored, data.HighBit
        data.BitsAllocated = bits
        setattr(data, name, bytes(data.Rows * data.Columns * bits // 8))

    return change


def undecodable(k: int, data: pydicom.Dataset) -> None:
    if k == 1:
        data.file_meta.TransferSyntaxUID = JPEG2000Lossless
        data.PixelData = pydicom.encaps.encapsulate([b"no picture, " * 20])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"change": setting(2, ImagePositionPatient=[-31.5, 12.25, 42.125])}, "one position"),
        ({"change": setting(2, ImagePositionPatient=[-31.5, 12.25, 44.7])}, "2.575 mm apart, most slices 2 mm"),
        ({"change": setting(1, ImageOrientationPatient=[0, 1, 0, 0, 0, -1])}, "differ.* has the row .*localizer"),
        ({"change": setting(1, ImageOrientationPatient=[1, 0, 0, 0, 0.99, 0.14])}, "differ.* has the column"),
        ({"change": setting(1, PixelSpacing=[0.75, 1.26])}, "differ.* has the spacing"),
        ({"change": setting(1, Modality="CT")}, "differ.* has the modality"),
        ({"change": setting(1, FrameOfReferenceUID=generate_uid())}, "differ.* has the frame_of_reference"),
        ({"change": setting(1, Rows=3, Columns=18)}, r"differ.* has the shape .*\(3, 18\)"),
        ({"change": shifted(0.1)}, r"0.1 mm from one to the next \(2.86 degrees, a tilted gantry\)"),
        ({"change": setting(2, ImagePositionPatient=[-31.5, 12.35, 44.125])}, "slice 3 of 5 lies 0.133 voxels off"),
        ({"change": setting(1, ImageOrientationPatient=[1, 0, 0, 1, 0, 0])}, "two unit vectors at right angles"),
        ({"change": setting(1, ImageOrientationPatient=[2, 0, 0, 0, 1, 0])}, "two unit vectors at right angles"),
        ({"change": setting(1, ImageOrientationPatient=[1, 0, 0])}, "cannot be used"),
        ({"change": setting(1, PixelSpacing=[0, 1])}, "two lengths above 0"),
        ({"change": setting(1, PixelSpacing=[1])}, "cannot be used"),
        ({"change": setting(1, ImagePositionPatient=[1, 2])}, "cannot be used"),
        ({"change": setting(1, Rows=0)}, "has 0 x 9 pixels"),
        ({"change": setting(1, ImagePositionPatient=None)}, "cannot be used .*ImagePositionPatient"),
        ({"change": setting(1, ImageOrientationPatient=None)}, "cannot be used .*ImageOrientationPatient"),
        ({"change": setting(1, PixelSpacing=None)}, "cannot be used .*PixelSpacing"),
        ({"change": setting(1, PixelData=None)}, "cannot be decoded"),
        ({"change": setting(1, SeriesInstanceUID=None)}, "no SeriesInstanceUID"),
        ({"change": setting(1, RescaleSlope="1e37", RescaleIntercept="0")}, "NaN or infinite after RescaleSlope"),
        ({"change": setting(1, NumberOfFrames=2)}, "2 frames"),
        ({"change": setting(1, SharedFunctionalGroupsSequence=[])}, "multi-frame or enhanced"),
        ({"change": colour}, "3 samples per pixel, RGB"),
        ({"change": setting(0, PhotometricInterpretation="MONOCHROME1")}, "1 samples per pixel, MONOCHROME1"),
        ({"change": undecodable}, "pixels cannot be decoded"),
        ({"change": floating("FloatPixelData", 32)}, "holds FloatPixelData; expected PixelData"),
        ({"change": floating("DoubleFloatPixelData", 64)}, "holds DoubleFloatPixelData; expected PixelData"),
        ({"change": setting(3, RescaleSlope="0", RescaleIntercept="5")}, "has the RescaleSlope 0; expected another"),
        ({"shape": (1, 4, 4), "thickness": None, "modality": "CT"}, "the only slice, without SpacingBetweenSlices"),
    ],
)
def test_bad_series(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    write_series(tmp_path, **options)
    with pytest.raises(SeriesError, match=message) as caught:
        read_dicom_series(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "expected" in str(caught.value)


def test_wrong_modality(tmp_path: Path) -> None:
    write_series(tmp_path, modality="CT")
    with pytest.raises(SeriesError, match=r"\(CT, 5 files\); expected one series of the modality MR"):
        read_dicom_series(tmp_path, modality="MR")


@pytest.mark.parametrize(("number", "index"), [(4, 1), (4, 2), (5, 1), (5, 2), (5, 3)])
def test_missing_slice(number: int, index: int, tmp_path: Path) -> None:
    series = write_series(tmp_path, shape=(number, 4, 5), plane="oblique")
    series.paths[index].unlink()
    before, after = series.paths[index - 1].name, series.paths[index + 1].name
    with pytest.raises(SeriesError, match=f"{before} and {after} are 4 mm apart, most slices 2 mm"):
        read_dicom_series(tmp_path)


def test_one_slice_twice(tmp_path: Path) -> None:
    series = write_series(tmp_path)
    shutil.copy(series.paths[3], tmp_path / "copy.dcm")
    with pytest.raises(SeriesError, match="one position"):
        read_dicom_series(tmp_path)


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize(
    ("slices", "step", "decimals"), [(3, 0.5, 2), (9, 0.625, 2), (4, 1.0, 2), (3, 0.5, 3), (2, 1, 2)]
)
def test_rounded_positions(plane: str, slices: int, step: float, decimals: int, tmp_path: Path) -> None:
    def change(k: int, data: pydicom.Dataset) -> None:
        data.ImagePositionPatient = [f"{float(value):.{decimals}f}" for value in data.ImagePositionPatient]

    series = write_series(tmp_path, shape=(slices, 4, 4), plane=plane, step=step, change=change)
    image = read_dicom_series(tmp_path).image
    assert image.pixdim[2] == pytest.approx(step, abs=0.02)
    np.testing.assert_allclose(image.affine[:3, 3], series.positions[0] * [-1, -1, 1], atol=0.006)


@pytest.mark.parametrize("plane", PLANES)
def test_noisy_positions(plane: str, tmp_path: Path) -> None:
    generator = np.random.default_rng(3)

    def change(k: int, data: pydicom.Dataset) -> None:
        noise = generator.uniform(-0.01, 0.01, 3)
        data.ImagePositionPatient = [
            f"{float(p) + n:.6f}" for p, n in zip(data.ImagePositionPatient, noise, strict=True)
        ]

    write_series(tmp_path, shape=(4, 4, 4), plane=plane, step=1.0, change=change)
    assert read_dicom_series(tmp_path).image.pixdim[2] == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(
    ("length", "message"),
    [(20, "no DICOM prefix"), (0, "no DICOM prefix"), (200, "no SeriesInstanceUID"), (-4, "decoded")],
)
def test_truncated_file(length: int, message: str, tmp_path: Path) -> None:
    series = write_series(tmp_path)
    path = series.paths[-1]  # at the end of the stack, where nothing else would show that it is missing
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(SeriesError, match=message) as caught:
        read_dicom_series(tmp_path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("length", range(132, 1100, 37))
def test_no_truncation_passes(length: int, tmp_path: Path) -> None:
    series = write_series(tmp_path)
    series.paths[-1].write_bytes(series.paths[-1].read_bytes()[:length])
    with pytest.raises(SeriesError):
        read_dicom_series(tmp_path)
