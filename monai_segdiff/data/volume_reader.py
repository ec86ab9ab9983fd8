# SPDX-License-Identifier: Apache-2.0
"""NIfTI volumes of one channel from files, with everything else refused by name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from monai.data import NibabelReader
from monai.utils import ensure_tuple

from ..exceptions import AnnotationError, ImageError
from .monuseg import name_some
from .voxel_grid import check_affine

__all__ = ["VolumeReader"]

EXPECTED = "a NIfTI volume (.nii or .nii.gz) of three dimensions, one channel and a valid affine"


class VolumeReader(NibabelReader):
    """Read NIfTI files as float32 volumes of one channel, for images and, with ``num_classes``, for label maps.

    Taken are integer and float voxels of any size and byte order; further dimensions of size 1 are dropped. Refused
    are files without orientation (``sform_code`` and ``qform_code`` both 0), whose result could not be laid over
    anything, and those with NaN or infinity.

    ``read`` accepts everything and ``get_data`` does the work: ``LoadImage`` swallows what ``read`` raises and tries
    MONAI's own readers next, which would load a refused file after all; what ``get_data`` raises arrives.

    Args:
        num_classes: the file is a label map with the values 0 to ``num_classes - 1``, as integers or whole floats;
            None: it is an image.

    Raises:
        ValueError: when ``num_classes`` is below 2.

    Example:
        >>> load = LoadImaged(keys="label", reader=VolumeReader(num_classes=3))  # doctest: +SKIP
        >>> load({"label": "labelsTr/hippocampus_001.nii.gz"})["label"].unique()  # doctest: +SKIP
        tensor([0., 1., 2.])
    """

    def __init__(self, num_classes: int | None = None) -> None:
        if num_classes is not None and num_classes < 2:
            raise ValueError(f"num_classes is {num_classes}; expected at least 2, background included, or None.")
        super().__init__(squeeze_non_spatial_dims=True)
        self.num_classes = num_classes

    def read(self, data: Sequence[str | os.PathLike] | str | os.PathLike, **kwargs: Any) -> list[Path]:
        """Accept one file by its name; it is opened by :meth:`get_data`.

        Args:
            data: the path.
            kwargs: ignored.
        """
        return [Path(name) for name in ensure_tuple(data)]

    def get_data(self, img: Sequence[Path]) -> tuple[np.ndarray, dict]:
        """Load what :meth:`read` accepted.

        Args:
            img: what :meth:`read` gave.

        Returns:
            The voxels, float32 [X, Y, Z] in the order of the file, and the metadata as ``NibabelReader`` gives them.

        Raises:
            ImageError: when the file is missing, truncated, no such volume, or holds NaN or infinity.
            AnnotationError: when a label map holds other values.
        """
        if len(img) != 1:
            raise ImageError(f"{name_some(map(str, img))}: {len(img)} files as channels; expected one, {EXPECTED}.")
        path = img[0]
        if not path.is_file():
            raise ImageError(f"{path}: this file does not exist; expected {EXPECTED}.")
        try:
            image = nib.load(path)
            _check_header(image, path)
            reader = NibabelReader(squeeze_non_spatial_dims=True)  # it keeps the names of files, threads may share this
            reader.filenames = [path]
            array, meta = reader.get_data(image)
        except ImageError:
            raise
        except Exception as error:  # nibabel, gzip and zlib raise many types on damaged files
            raise ImageError(
                f"{path}: cannot be read ({type(error).__name__}: {error}); expected {EXPECTED} "
                "(is the file truncated?)."
            ) from error
        with np.errstate(over="ignore"):  # what overflows is refused below
            array = array.astype(np.float32)
        if self.num_classes is not None:
            _check_labels(array, self.num_classes, path)
        elif not np.isfinite(array).all():
            number = np.count_nonzero(~np.isfinite(array))
            raise ImageError(f"{path}: {number} of {array.size} voxels are NaN or infinite; expected finite float32.")
        return array, meta


def _check_labels(array: np.ndarray, num_classes: int, path: Path) -> None:
    bad = array[~np.isin(array, np.arange(num_classes))]
    if bad.size:
        raise AnnotationError(
            f"{path}: {bad.size} of {array.size} voxels hold the labels "
            f"{name_some(f'{value:g}' for value in np.unique(bad))}; "
            f"expected whole numbers from 0 to {num_classes - 1} (num_classes={num_classes})."
        )


def _check_header(image: Any, path: Path) -> None:
    if not isinstance(image, nib.Nifti1Image):  # Nifti2Image is one
        raise ImageError(f"{path}: holds a {type(image).__name__}; expected {EXPECTED}.")
    shape = image.shape
    if len(shape) < 3 or 0 in shape or any(n != 1 for n in shape[3:]):
        raise ImageError(f"{path}: has the shape {list(shape)}; expected {EXPECTED}.")
    if image.get_data_dtype().kind not in "iuf":
        raise ImageError(f"{path}: has voxels of the type {image.get_data_dtype()}; expected numbers, one to a voxel.")
    if not image.header["sform_code"] and not image.header["qform_code"]:
        raise ImageError(
            f"{path}: has no orientation (sform_code and qform_code are 0); expected an affine that says where the "
            "voxels lie. If it is known, set it in the file, for instance with nibabel's set_sform(affine, code=1)."
        )
    check_affine(image.affine, path)
