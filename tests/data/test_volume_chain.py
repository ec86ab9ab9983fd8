# SPDX-License-Identifier: Apache-2.0
"""NIfTI in, NIfTI out: what a bundle does to a volume before and after the network, all transforms together."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator
from monai.transforms import (
    AsDiscreted,
    Compose,
    EnsureChannelFirstd,
    EnsureTyped,
    Invertd,
    LoadImaged,
    NormalizeIntensityd,
    Orientationd,
    SaveImaged,
    Spacingd,
)
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform
from scipy.spatial.transform import Rotation

from monai_segdiff import CheckSameGridd, VolumeReader, VolumeWriter, decathlon_split, volume_datalist

HIPPOCAMPUS = Path(__file__).parents[2].parent / "shared" / "data" / "hippocampus"
SHAPE = (22, 26, 18)
Triple = tuple[float, float, float]


def affine(
    axes: str = "RAS", spacing: Triple = (1, 1, 1), angles: Triple = (0, 0, 0), shear: float = 0.0
) -> np.ndarray:
    """Give the affine of a grid whose voxel axes point to ``axes`` before they are turned (degrees)."""
    flips = inv_ornt_aff(ornt_transform(io_orientation(np.eye(4)), axcodes2ornt(axes)), SHAPE)
    result = np.eye(4)
    result[0, 1] = shear
    result[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() @ flips[:3, :3] @ result[:3, :3]
    result[:3, :3] *= spacing
    result[:3, 3] = (-31.7, 12.3, 4.9)
    return result


def segment(folder: Path, data_dir: Path) -> None:
    """Segment all volumes of a folder with a network whose classes are thresholds."""

    class Thresholds(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x.as_tensor()  # as inferers do that return no metadata
            return torch.softmax(20 * torch.cat([0 * x, x - 1, 2 * x - 4], dim=1), dim=1)

    preprocessing = Compose(
        [
            LoadImaged(keys="image", reader=VolumeReader),
            EnsureChannelFirstd(keys="image"),
            Orientationd(keys="image", axcodes="RAS", labels=None),
            Spacingd(keys="image", pixdim=(1.0, 1.0, 1.0), mode="bilinear"),
            NormalizeIntensityd(keys="image", channel_wise=True),
        ]
    )
    postprocessing = Compose(
        [
            EnsureTyped(keys="pred"),  # Invertd only warns about a tensor without metadata, and leaves it as it is
            Invertd(keys="pred", orig_keys="image", transform=preprocessing, nearest_interp=False),
            AsDiscreted(keys="pred", argmax=True),
            SaveImaged(
                keys="pred",
                output_dir=folder,
                output_postfix="seg",
                output_ext=".nii.gz",
                output_dtype=torch.uint8,
                resample=False,
                separate_folder=False,
                print_log=False,
                writer=VolumeWriter,
            ),
        ]
    )
    SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Dataset(volume_datalist(data_dir), preprocessing), batch_size=1),
        network=Thresholds(),
        postprocessing=postprocessing,
    ).run()


GRIDS = {
    "as it is": affine(),
    "1 x 1 x 2.5 mm": affine(spacing=(1, 1, 2.5)),
    "LAS": affine("LAS"),
    "PSR": affine("PSR"),
    "oblique": affine(angles=(7, -11, 23)),
    "LAS, oblique, fine and coarse": affine("LAS", (0.6, 1.3, 2.5), (12, 5, -31)),
    "PSR, oblique, 1 x 1 x 2.5 mm": affine("PSR", (1, 1, 2.5), (-20, 9, 14)),
    "sheared": affine(angles=(5, 5, 5), shear=0.2),
}
CODES = {"both": (1, 1), "sform only": (4, 0), "qform only": (0, 2), "they differ": (2, 1)}


@pytest.mark.parametrize("codes", CODES)
@pytest.mark.parametrize("grid", GRIDS)
def test_results_lie_where_their_volumes_lie(tmp_path: Path, grid: str, codes: str) -> None:
    # Boxes of two brightnesses off the centre, other along each axis; smooth enough for the trip to 1 mm and back.
    expected = np.zeros(SHAPE, dtype=np.uint8)
    expected[3:13, 5:16, 8:16] = 1
    expected[6:13, 7:13, 9:15] = 2
    image = nib.Nifti1Image(np.choose(expected, (100, 200, 300)).astype(np.int16), None)
    sform, qform = CODES[codes]
    image.set_sform(GRIDS[grid], code=sform)
    image.set_qform(affine("LPS", (2, 2, 2)) if codes == "they differ" else GRIDS[grid], code=qform, strip_shears=True)
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, tmp_path / "a.nii.gz")
    before = nib.load(tmp_path / "a.nii.gz")

    segment(tmp_path / "out", tmp_path)

    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a_seg.nii.gz"]
    after = nib.load(tmp_path / "out" / "a_seg.nii.gz")
    assert np.array_equal(after.affine, before.affine)
    for name in ("sform_code", "srow_x", "srow_y", "srow_z", "qform_code", "quatern_b", "quatern_c", "quatern_d"):
        assert np.array_equal(after.header[name], before.header[name]), name
    assert np.array_equal(after.get_qform(), before.get_qform())
    assert after.header.get_zooms() == before.header.get_zooms()
    assert after.header.get_xyzt_units() == ("mm", "sec")
    found = np.asarray(after.dataobj)
    assert found.dtype == np.uint8
    if grid in ("as it is", "LAS", "PSR", "oblique"):
        assert np.array_equal(found, expected), "no voxel was resampled"
    for label in (1, 2):
        dice = 2 * ((found == label) & (expected == label)).sum() / ((found == label).sum() + (expected == label).sum())
        assert dice > 0.8


def test_real_volumes_are_not_resampled() -> None:
    if not HIPPOCAMPUS.is_dir():
        pytest.skip(f"{HIPPOCAMPUS} not present")
    parts = decathlon_split(HIPPOCAMPUS)
    assert [len(entries) for entries in parts.values()] == [167, 42]
    load = Compose(
        [
            LoadImaged(keys="image", reader=VolumeReader),
            LoadImaged(keys="label", reader=VolumeReader(num_classes=3)),
            EnsureChannelFirstd(keys=["image", "label"]),
            CheckSameGridd(keys="label"),
            Orientationd(keys=["image", "label"], axcodes="RAS", labels=None),
            Spacingd(keys=["image", "label"], pixdim=(1.0, 1.0, 1.0), mode=["bilinear", "nearest"]),
        ]
    )
    for entry in parts["validation"]:
        loaded = load(entry)
        for key in ("image", "label"):
            voxels = np.asarray(nib.load(entry[key]).dataobj)
            assert np.array_equal(loaded[key][0].numpy(), voxels.astype(np.float32)), entry[key]
