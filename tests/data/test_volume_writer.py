# SPDX-License-Identifier: Apache-2.0
"""The place of results after a whole chain of transforms is tested in test_volume_chain.py."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor, NibabelWriter
from monai.transforms import LoadImage, SaveImage

from monai_segdiff import VolumeReader, VolumeWriter

SHAPE = (5, 7, 4)


def saver(folder: Path, writer: type = VolumeWriter, **kwargs) -> SaveImage:
    settings = {"output_postfix": "seg", "resample": False, "separate_folder": False, "print_log": False, **kwargs}
    return SaveImage(output_dir=folder, writer=writer, output_dtype=np.uint8, **settings)


@pytest.fixture
def image(tmp_path: Path) -> MetaTensor:
    volume = nib.Nifti1Image(np.arange(140, dtype=np.uint8).reshape(SHAPE), None)
    volume.set_sform(np.diag([1.1, 2.0, 3.0, 1.0]), code=4)
    volume.set_qform(np.diag([-1.1, -2.0, 3.0, 1.0]), code=2)
    volume.header.set_xyzt_units("mm")
    nib.save(volume, tmp_path / "a.nii.gz")
    return LoadImage(reader=VolumeReader, ensure_channel_first=True)(tmp_path / "a.nii.gz")


@pytest.mark.parametrize("ext", [".nii", ".nii.gz"])
@pytest.mark.parametrize("noise", [0.0, 1e-5])
def test_the_place_is_that_of_the_file(tmp_path: Path, image: MetaTensor, ext: str, noise: float) -> None:
    image.affine = image.affine + noise * torch.tensor([[1], [1], [1], [0]])
    saver(tmp_path / "out", output_ext=ext)(image)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [f"a_seg{ext}"]
    before, after = nib.load(tmp_path / "a.nii.gz"), nib.load(tmp_path / "out" / f"a_seg{ext}")
    assert np.array_equal(np.asarray(after.dataobj), np.asarray(before.dataobj))
    differing = {name for name in before.header if not np.array_equal(before.header[name], after.header[name])}
    assert differing <= {"scl_slope", "scl_inter"}  # NaN
    assert after.get_data_dtype() == np.uint8


def test_values_keep_their_type(tmp_path: Path, image: MetaTensor) -> None:
    writer = VolumeWriter(output_dtype=torch.float32)
    writer.set_data_array(image / 7)
    writer.set_metadata(image.meta, resample=False)
    writer.write(tmp_path / "out.nii.gz")
    found = nib.load(tmp_path / "out.nii.gz")
    assert found.get_data_dtype() == np.float32
    assert np.array_equal(np.asarray(found.dataobj), (image[0] / 7).numpy())


@pytest.mark.parametrize("shape", [(5, 7, 1), (5, 1, 1), (1, 1, 1)])
def test_single_slices_stay_volumes(tmp_path: Path, shape: tuple[int, ...]) -> None:
    nib.save(nib.Nifti1Image(np.ones(shape, np.uint8), np.diag([1.1, 2.0, 3.0, 1.0])), tmp_path / "a.nii.gz")
    image = LoadImage(reader=VolumeReader, ensure_channel_first=True)(tmp_path / "a.nii.gz")
    saver(tmp_path / "out", output_ext=".nii.gz")(image)
    after = nib.load(tmp_path / "out" / "a_seg.nii.gz")
    assert after.shape == shape
    assert np.array_equal(after.affine, np.diag([1.1, 2.0, 3.0, 1.0]).astype(np.float32))


def test_another_place_is_written_as_monai_writes_it(tmp_path: Path, image: MetaTensor) -> None:
    cropped = image[:, 1:]
    cropped.affine = image.affine @ torch.tensor(
        [[1.0, 0, 0, 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], dtype=torch.float64
    )
    plain = MetaTensor(torch.ones(1, 3, 3, 3), meta={"filename_or_obj": "plain.nii.gz"})
    for name, item in (("a", cropped), ("plain", plain)):
        found = []
        for writer in (VolumeWriter, NibabelWriter):
            saver(tmp_path / writer.__name__, writer)(item)
            found.append((tmp_path / writer.__name__ / f"{name}_seg.nii.gz").read_bytes())
        assert found[0] == found[1]


def test_a_failure_leaves_the_old_file(tmp_path: Path, image: MetaTensor, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = MetaTensor(torch.ones(1, 3, 3, 3), meta={"filename_or_obj": "plain.nii.gz"})
    for item in (image, plain):
        saver(tmp_path / "out")(item)
    old = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert len(old) == 2

    def fail(self: nib.Nifti1Image, path: Path, **kwargs: object) -> None:
        Path(path).write_bytes(b"half a volume")
        raise OSError("disk full")

    monkeypatch.setattr(nib.Nifti1Image, "to_filename", fail)
    for item in (image, plain):
        with pytest.raises(RuntimeError, match="disk full"):
            saver(tmp_path / "out")(item)
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == old
