# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.transforms import LoadImage, LoadImaged
from PIL import Image

from monai_segdiff.data import VolumeReader
from monai_segdiff.exceptions import AnnotationError, ImageError

SHAPE = (5, 7, 4)
AFFINE = np.array([[0.0, -2.0, 0.0, 3.0], [1.0, 0.0, 0.0, -8.0], [0.0, 0.0, 2.5, 1.0], [0.0, 0.0, 0.0, 1.0]])


@pytest.fixture
def voxels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 200, SHAPE).astype(np.float32)


def save(path: Path, voxels: np.ndarray, affine: np.ndarray | None = AFFINE, **kwargs) -> Path:
    nib.save(nib.Nifti1Image(voxels, affine, **kwargs), path)
    return path


def load(path: Path, **kwargs) -> tuple[np.ndarray, dict]:
    reader = VolumeReader(**kwargs)
    return reader.get_data(reader.read(path))


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("dtype", ["u1", "i2", "<f4", ">f4", ">i2", "f8"])
def test_all_numbers_are_read(tmp_path, voxels, name, dtype):
    header = nib.Nifti1Header(endianness=dtype[0] if dtype[0] in "<>" else "<")
    header.set_data_dtype(np.dtype(dtype))
    path = save(tmp_path / name, voxels.astype(dtype), header=header)
    assert nib.load(path).get_data_dtype() == np.dtype(dtype)
    found, meta = load(path)
    assert found.dtype == np.float32
    assert found.dtype.isnative
    np.testing.assert_array_equal(found, voxels)
    np.testing.assert_array_equal(meta["affine"], AFFINE)


def test_in_monai_loader(tmp_path, voxels):
    path = save(tmp_path / "a.nii.gz", voxels.astype(np.int16))
    for reader in (VolumeReader, VolumeReader()):
        image = LoadImage(reader=reader, ensure_channel_first=True)(path)
        assert torch.equal(image.as_tensor(), torch.from_numpy(voxels)[None])
        np.testing.assert_array_equal(image.affine, AFFINE)
        np.testing.assert_array_equal(image.meta["original_affine"], AFFINE)
        assert image.meta["filename_or_obj"] == str(path)


def test_scaled_values(tmp_path):
    header = nib.Nifti1Header()
    header.set_slope_inter(0.5, -3)
    image = nib.Nifti1Image(np.zeros(SHAPE, np.int16), AFFINE, header)
    image.header.set_data_dtype(np.int16)
    nib.save(image, tmp_path / "a.nii")
    data = bytearray((tmp_path / "a.nii").read_bytes())
    data[112:120] = np.array([0.5, -3], "<f4").tobytes()  # scl_slope and scl_inter
    (tmp_path / "a.nii").write_bytes(data)
    assert (load(tmp_path / "a.nii")[0] == -3).all()


@pytest.mark.parametrize("shape", [(*SHAPE, 1), (*SHAPE, 1, 1), (5, 7, 1), (5, 1, 4, 1)])
def test_singletons(tmp_path, shape):
    voxels = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    # nibabel itself drops dimensions of size 1 at the end when it writes, apart from the first three
    found = LoadImage(reader=VolumeReader, ensure_channel_first=True)(save(tmp_path / "a.nii", voxels))
    assert found.shape == (1, *shape[:3])
    np.testing.assert_array_equal(found[0], voxels.reshape(shape[:3]))


def test_nifti_2_and_qform_only(tmp_path, voxels):
    nib.save(nib.Nifti2Image(voxels, AFFINE), tmp_path / "a.nii")
    np.testing.assert_array_equal(load(tmp_path / "a.nii")[0], voxels)
    image = nib.Nifti1Image(voxels, AFFINE)
    image.set_sform(None, code=0)
    image.set_qform(AFFINE, code=1)
    nib.save(image, tmp_path / "b.nii")
    np.testing.assert_allclose(load(tmp_path / "b.nii")[1]["affine"], AFFINE, atol=1e-6)


def bad_file(case: str, path: Path, voxels: np.ndarray) -> None:
    if case in ("NaN", "infinite", "too large for float32"):
        values = voxels.astype(np.float64)
        values[1, 2, 3] = {"NaN": np.nan, "infinite": -np.inf, "too large for float32": 1e300}[case]
        save(path, values)
    elif case == "no affine":
        save(path, voxels, None)
    elif case in ("flat affine", "zero affine", "NaN affine"):
        affine = AFFINE.astype("<f4")
        affine[:3, 2] = {"flat": affine[:3, 1], "zero": 0, "NaN": np.nan}[case.split()[0]]
        data = bytearray(nib.Nifti1Image(voxels, AFFINE).to_bytes())
        data[280:328] = affine[:3].tobytes()  # srow_x to srow_z
        path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    elif case in SHAPES:
        save(path, np.zeros(SHAPES[case], np.uint8))
    elif case == "complex":
        save(path, voxels.astype(np.complex64))
    elif case == "colour":
        save(path, np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")]))
    elif case in ("truncated", "header only", "empty"):
        size = {"truncated": 400, "header only": 200, "empty": 0}[case]
        whole = path.with_name(f"whole-{path.name}")
        save(whole, np.random.default_rng(1).random((20, 20, 20)).astype(np.float32))
        path.write_bytes(whole.read_bytes()[:size])
    elif case == "text":
        path.write_text("not a volume")
    elif case == "text in gzip":
        path.write_bytes(gzip.compress(b"not a volume"))
    elif case == "picture":
        Image.new("L", (9, 9)).save(path, format="png")
    elif case == "two files":
        nib.save(nib.Nifti1Pair(voxels, AFFINE), path)
    elif case == "folder":
        path.mkdir()


SHAPES = {
    "four dimensions": (*SHAPE, 2),
    "two channels": (*SHAPE, 1, 2),
    "two dimensions": (5, 7),
    "no voxels": (5, 0, 4),
}
BAD = {
    "NaN": "1 of 140 voxels are NaN or infinite",
    "infinite": "1 of 140 voxels are NaN or infinite",
    "too large for float32": "1 of 140 voxels are NaN or infinite",
    "no affine": "no orientation (sform_code and qform_code are 0)",
    "flat affine": "whose axes do not span a space",
    "zero affine": "whose axes do not span a space",
    "NaN affine": "expected [4, 4] finite numbers",
    "four dimensions": "has the shape [5, 7, 4, 2]",
    "two channels": "has the shape [5, 7, 4, 1, 2]",
    "two dimensions": "has the shape [5, 7]",
    "no voxels": "has the shape [5, 0, 4]",
    "complex": "type complex64",
    "colour": "has voxels of the type",
    "truncated": "is the file truncated?",
    "header only": "cannot be read",
    "empty": "cannot be read",
    "text": "cannot be read",
    "text in gzip": "cannot be read",
    "picture": "cannot be read",
    "two files": "holds a Nifti1Pair",
    "folder": "does not exist",
    "missing": "does not exist",
}
NAMES = {"picture": ["a.png"], "two files": ["a.img"], "text in gzip": ["a.nii.gz"]}


@pytest.mark.parametrize(
    ("case", "name"), [(case, name) for case in BAD for name in NAMES.get(case, ["a.nii", "a.nii.gz"])]
)
@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
def test_bad_file_is_named_and_not_given_to_another_reader(tmp_path, voxels, case, name):
    path = tmp_path / name
    bad_file(case, path, voxels)
    with pytest.raises(ImageError) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert BAD[case] in str(caught.value)
    assert "expected" in str(caught.value)
    with pytest.raises(ImageError):
        LoadImage(reader=VolumeReader())(path)


def test_several_files_are_no_channels(tmp_path, voxels):
    paths = [save(tmp_path / name, voxels) for name in ("a.nii", "b.nii")]
    with pytest.raises(ImageError, match=r"a\.nii, .*b\.nii: 2 files as channels; expected one"):
        load(paths)


@pytest.mark.parametrize("dtype", ["u1", "i4", "f4", "f8"])
@pytest.mark.parametrize("num_classes", [2, 3])
def test_labels(tmp_path, dtype, num_classes):
    labels = np.random.default_rng(0).integers(0, num_classes, SHAPE).astype(dtype)
    found, _ = load(save(tmp_path / "a.nii.gz", labels), num_classes=num_classes)
    np.testing.assert_array_equal(found, labels)
    empty = save(tmp_path / "empty.nii.gz", 0 * labels)
    assert not load(empty, num_classes=num_classes)[0].any()


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ([3], "1 of 140 voxels hold the labels 3;"),
        ([-1, 4, 4], "3 of 140 voxels hold the labels -1, 4;"),
        ([0.5], "labels 0.5;"),
        ([1.999], "labels 1.999;"),
        ([np.nan, np.nan], "2 of 140 voxels hold the labels nan;"),
        ([np.inf], "labels inf;"),
        ([11, 12, 13, 14, 15, 16, 17], "labels 11, 12, 13, 14, 15 and 2 more;"),
    ],
)
def test_other_labels_are_named(tmp_path, values, named):
    labels = np.ones(SHAPE, dtype=np.float32)
    labels.reshape(-1)[5 : 5 + len(values)] = values
    path = save(tmp_path / "a.nii.gz", labels)
    for read in (
        lambda: load(path, num_classes=3),
        lambda: LoadImaged(keys="label", reader=VolumeReader(num_classes=3))({"label": path}),
    ):
        with pytest.raises(AnnotationError) as caught:
            read()
        assert str(path) in str(caught.value)
        assert named in str(caught.value)
        assert "expected whole numbers from 0 to 2" in str(caught.value)


def test_label_files_that_are_no_volume(tmp_path):
    (tmp_path / "a.nii.gz").touch()
    with pytest.raises(ImageError, match=r"a\.nii\.gz: cannot be read"):
        load(tmp_path / "a.nii.gz", num_classes=3)


@pytest.mark.parametrize("num_classes", [1, 0, -3])
def test_number_of_classes(num_classes):
    with pytest.raises(ValueError, match=f"num_classes is {num_classes}; expected at least 2"):
        VolumeReader(num_classes=num_classes)
