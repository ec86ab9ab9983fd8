# SPDX-License-Identifier: Apache-2.0
"""NIfTI results that lie exactly where their image does, and are either whole or not there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import nibabel as nib
from monai.config import NdarrayOrTensor, PathLike
from monai.data import ImageWriter, NibabelWriter
from monai.utils import convert_to_numpy

from .atomic_write import atomic_write
from .voxel_grid import grid_distance

__all__ = ["VolumeWriter"]

# All that places a volume in space, in both ways that NIfTI has, apart from pixdim.
PLACEMENT = (
    *("sform_code", "srow_x", "srow_y", "srow_z"),
    *("qform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    "xyzt_units",
)
TOLERANCE = 1e-3  # voxels; far above the rounding of what a transform and its inverse do to an affine


class VolumeWriter(NibabelWriter):
    """MONAI's ``NibabelWriter``, through :func:`~monai_segdiff.data.atomic_write`, with the place of the image.

    MONAI writes the affine as sform and qform, both with code 1. A result on the grid of the NIfTI file that it was
    made from, for instance after ``Invertd``, gets the fields of that file instead, bit for bit: affine, spacing,
    codes and units, also where sform and qform differ. Any other result is placed as MONAI does.

    Example:
        >>> SaveImaged(keys="pred", writer=VolumeWriter, output_ext=".nii.gz", resample=False)  # doctest: +SKIP
    """

    header: nib.Nifti1Header | None = None

    def set_data_array(
        self,
        data_array: NdarrayOrTensor,
        channel_dim: int | None = 0,
        squeeze_end_dims: bool = True,
        **kwargs: Any,
    ) -> None:
        """Take the voxels; arguments as for ``NibabelWriter``."""
        super().set_data_array(data_array, channel_dim, squeeze_end_dims=False, **kwargs)
        if squeeze_end_dims and self.data_obj.shape[-1] == 1:
            # The channel alone: MONAI drops the last axis of a single slice with it.
            self.data_obj = self.data_obj[..., 0]

    def set_metadata(self, meta_dict: Mapping | None, resample: bool = True, **options: Any) -> None:
        """Take the place of the volume from its metadata; arguments as for ``NibabelWriter``."""
        super().set_metadata(meta_dict, resample, **options)
        meta = meta_dict or {}
        self.header = None
        if {"original_affine", "original_pixdim", *PLACEMENT} <= meta.keys():
            original, affine = convert_to_numpy(meta["original_affine"]), convert_to_numpy(self.affine)
            if grid_distance(original, affine, self.data_obj.shape[:3]) <= TOLERANCE:
                self.header = nib.Nifti1Header()
                for name in PLACEMENT:
                    self.header[name] = convert_to_numpy(meta[name])
                self.header["pixdim"][:4] = convert_to_numpy(meta["original_pixdim"])[:4]

    def write(self, filename: PathLike, verbose: bool = False, **kwargs: Any) -> None:
        """Write the volume; arguments as for ``NibabelWriter``."""
        with atomic_write(filename) as temporary:
            if self.header is None:
                super().write(temporary, verbose, **kwargs)
                return
            ImageWriter.write(self, filename, verbose)  # logs
            image = self.create_backend_obj(
                self.data_obj, self.header.get_best_affine(), self.output_dtype, header=self.header
            )
            image.set_data_dtype(image.dataobj.dtype)
            nib.save(image, temporary)
