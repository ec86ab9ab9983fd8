# SPDX-License-Identifier: Apache-2.0
"""Volumes and labels that cannot be used are refused by a typed error that names the file."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from monai_segdiff.exceptions import AnnotationError, DatasetError, ImageError

Change = Callable[[Path], Path]


@pytest.fixture
def data(hippocampus, tmp_path: Path) -> Path:
    return Path(shutil.copytree(hippocampus.dataset, tmp_path / "data"))


# Each changes the dataset and returns the path that the message must name.


def rewritten(kind: str, change: Callable[[nib.Nifti1Image], nib.Nifti1Image]) -> Change:
    def write(data: Path) -> Path:
        path = data / kind / "hippocampus_001.nii.gz"
        nib.save(change(nib.load(path)), path)
        return path

    return write


def with_label(value: float) -> Callable[[nib.Nifti1Image], nib.Nifti1Image]:
    def change(image: nib.Nifti1Image) -> nib.Nifti1Image:
        voxels = np.asarray(image.dataobj, np.float32).copy()
        voxels[2, 3, 4] = value
        return nib.Nifti1Image(voxels, image.affine)

    return change


def without_affine(image: nib.Nifti1Image) -> nib.Nifti1Image:
    image.set_sform(image.affine, code=0)
    image.set_qform(image.affine, code=0)
    return image


def of_shape(*shape: int) -> Callable[[nib.Nifti1Image], nib.Nifti1Image]:
    return lambda image: nib.Nifti1Image(np.ones(shape, np.float32), image.affine)


def of_colours(image: nib.Nifti1Image) -> nib.Nifti1Image:
    colours = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
    return nib.Nifti1Image(np.zeros(image.shape, colours), image.affine)


def with_nan(image: nib.Nifti1Image) -> nib.Nifti1Image:
    return with_label(np.nan)(image)


def moved(image: nib.Nifti1Image) -> nib.Nifti1Image:
    affine = image.affine.copy()
    affine[0, 3] += 1
    return nib.Nifti1Image(np.asarray(image.dataobj), affine)


def truncated(data: Path) -> Path:
    path = data / "imagesTr" / "hippocampus_001.nii.gz"
    path.write_bytes(path.read_bytes()[:2000])
    return path


def no_label(data: Path) -> Path:
    (data / "labelsTr" / "hippocampus_001.nii.gz").unlink()
    return data / "imagesTr" / "hippocampus_001.nii.gz"


def no_folder(data: Path) -> Path:
    shutil.rmtree(data)
    return data


def empty_folder(data: Path) -> Path:
    shutil.rmtree(data)
    data.mkdir()
    return data


IMAGES: dict[str, tuple[Change, type[Exception], str]] = {
    "no affine": (rewritten("imagesTr", without_affine), ImageError, "has no orientation"),
    "4-D": (rewritten("imagesTr", of_shape(18, 20, 16, 2)), ImageError, "has the shape [18, 20, 16, 2]"),
    "2-D": (rewritten("imagesTr", of_shape(18, 20)), ImageError, "has the shape [18, 20]"),
    "colours": (rewritten("imagesTr", of_colours), ImageError, "expected numbers, one to a voxel"),
    "NaN": (rewritten("imagesTr", with_nan), ImageError, "1 of 5760 voxels are NaN"),
    "truncated": (truncated, ImageError, "is the file truncated"),
}
DATASETS: dict[str, tuple[Change, type[Exception], str]] = {
    "no folder": (no_folder, DatasetError, "this folder does not exist; expected 'imagesTr' and 'labelsTr'"),
    "empty folder": (empty_folder, DatasetError, "this folder does not exist; expected 'imagesTr' and 'labelsTr'"),
    "no label": (no_label, DatasetError, "1 files have no partner"),
    "label 3": (rewritten("labelsTr", with_label(3)), AnnotationError, "1 of 5760 voxels hold the labels 3"),
    "label -1": (rewritten("labelsTr", with_label(-1)), AnnotationError, "1 of 5760 voxels hold the labels -1"),
    "label 0.5": (rewritten("labelsTr", with_label(0.5)), AnnotationError, "1 of 5760 voxels hold the labels 0.5"),
    "label of another size": (rewritten("labelsTr", of_shape(18, 20, 15)), AnnotationError, "expected [18, 20, 16]"),
    "label elsewhere": (rewritten("labelsTr", moved), AnnotationError, "lie up to 1 voxels beside"),
    **IMAGES,
}


@pytest.mark.parametrize("case", DATASETS)
@pytest.mark.parametrize("names", ["train", "train evaluate"])
def test_bad_datasets(hippocampus, assert_said, data: Path, tmp_path: Path, names: str, case: str) -> None:
    change, kind, expected = DATASETS[case]
    path, out = change(data), tmp_path / "out"
    with pytest.raises(RuntimeError) as caught:
        hippocampus.run(names, dataset_dir=data, run_dir=out, ckpt=hippocampus.weights, output_dir=out)
    assert_said(caught.value, kind, path, expected)
    left = {file.name for file in out.rglob("*") if file.is_file() and "tfevents" not in file.name}
    assert left <= {"split.json"}


@pytest.mark.parametrize(
    ("change", "kind", "expected"),
    [
        (no_folder, DatasetError, "does not exist"),
        (empty_folder, DatasetError, "expected files with .nii"),
        *IMAGES.values(),
    ],
    ids=["no folder", "empty folder", *IMAGES],
)
def test_bad_volumes_for_inference(
    hippocampus, assert_said, data: Path, tmp_path: Path, change: Change, kind: type[Exception], expected: str
) -> None:
    path, out = change(data), tmp_path / "out"
    with pytest.raises(RuntimeError) as caught:
        hippocampus.run("inference", dataset_dir=data, ckpt=hippocampus.weights, output_dir=out)
    assert_said(caught.value, kind, path, expected)
    assert not out.exists() or not list(out.iterdir())


def test_uncertainty_of_one_generation_is_refused(hippocampus, assert_said, tmp_path: Path) -> None:
    arguments = {"ckpt": hippocampus.weights, "output_dir": tmp_path / "out", "uncertainty": "true"}
    with pytest.raises(RuntimeError) as caught:
        hippocampus.run("inference", **arguments)
    assert_said(caught.value, ValueError, "num_generations", "must be at least 2 for uncertainty")
    assert not (tmp_path / "out").exists()
