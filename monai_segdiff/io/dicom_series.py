# SPDX-License-Identifier: Apache-2.0
"""DICOM series from a folder, with everything refused by name that is no regular volume."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.utils import MetaKeys, SpaceKeys

from ..exceptions import SeriesError
from .folder_headers import read_folder_headers
from .import_dicom import import_dicom
from .slice_header import SliceHeader
from .slice_stack import stack_slices

__all__ = ["DicomSeries", "read_dicom_series"]


@dataclass(frozen=True, eq=False)
class DicomSeries:
    """One DICOM series as a volume.

    Attributes:
        image: float32 [1, X, Y, Z] with its affine to RAS in mm, as MONAI's ``ITKReader`` gives it: x is the column,
            y the row and z the slice, and slices follow each other along their normal. RescaleSlope and
            RescaleIntercept are applied.
        files: the file of each slice: ``image[..., k]`` is ``files[k]``.
        instance_uids: the SOPInstanceUID of each slice.
        series_uid: SeriesInstanceUID.
        modality: Modality, for instance ``"MR"``.
    """

    image: MetaTensor
    files: tuple[Path, ...]
    instance_uids: tuple[str, ...]
    series_uid: str
    modality: str


def read_dicom_series(
    folder: str | os.PathLike[str], modality: str | None = None, series_uid: str | None = None
) -> DicomSeries:
    """Read the one series of a folder, or a given one of several.

    Files may have any names; which of them count says :func:`~monai_segdiff.io.folder_headers.read_folder_headers`.
    Voxels are decoded by ITK (GDCM), compressed ones included. The place of the slices comes from their
    ImagePositionPatient, never from names, InstanceNumber or SliceThickness (see
    :func:`~monai_segdiff.io.slice_stack.stack_slices`). A slice that is missing at an end cannot be noticed.

    Args:
        folder: folder with one file to a slice.
        modality: series of another one are passed over, for instance ``"MR"``; None takes any.
        series_uid: SeriesInstanceUID, where the folder holds several series.

    Raises:
        SeriesError: no such series, several, a slice that is missing, double, damaged or unlike the others, slices
            that are shifted (a tilted gantry), several frames in a file, colour, NaN or infinity.
        ImportError: the extra ``dicom`` is not installed.

    Example:
        >>> series = read_dicom_series("studies/0001/t1", modality="MR")  # doctest: +SKIP
        >>> series.image.shape, series.image.affine  # doctest: +SKIP
    """
    folder = Path(folder)
    series_uid, headers = _choose(folder, read_folder_headers(folder), modality, series_uid)
    slices, affine = stack_slices([SliceHeader.from_dataset(*item) for item in headers], folder)
    voxels = _read_voxels([header.path for header in slices], slices[0].shape)
    meta = {
        MetaKeys.ORIGINAL_AFFINE: affine.copy(),
        MetaKeys.SPACE: SpaceKeys.RAS,
        MetaKeys.SPATIAL_SHAPE: np.array(voxels.shape),
        MetaKeys.ORIGINAL_CHANNEL_DIM: float("nan"),
        "filename_or_obj": str(folder),
    }
    return DicomSeries(
        image=MetaTensor(torch.from_numpy(voxels)[None], affine=torch.from_numpy(affine), meta=meta),
        files=tuple(header.path for header in slices),
        instance_uids=tuple(header.instance_uid for header in slices),
        series_uid=series_uid,
        modality=slices[0].modality,
    )


def _choose(
    folder: Path, series: dict[str, list[tuple[Path, Any]]], modality: str | None, series_uid: str | None
) -> tuple[str, list[tuple[Path, Any]]]:
    modalities = {uid: str(headers[0][1].get("Modality")) for uid, headers in series.items()}
    chosen = [uid for uid in series if series_uid in (None, uid) and (modality is None or modalities[uid] == modality)]
    if len(chosen) != 1:
        found = "; ".join(f"{uid} ({modalities[uid]}, {len(headers)} files)" for uid, headers in series.items())
        wanted = f"one series{f' of the modality {modality}' if modality else ''}"
        wanted += f" with the UID {series_uid}" if series_uid else " (or name one with series_uid)"
        raise SeriesError(f"{folder}: holds {len(series)} series: {found}; expected {wanted}.")
    return chosen[0], series[chosen[0]]


def _read_voxels(paths: Sequence[Path], shape: tuple[int, int]) -> np.ndarray:
    """Slices by ITK, after rescale, float32 [columns, rows, slices]."""
    itk = import_dicom("itk")
    # Slice by slice, so that an error has the name of its file.
    reader = itk.ImageFileReader[itk.Image[itk.F, 2]].New(ImageIO=itk.GDCMImageIO.New())
    voxels = np.empty((shape[1], shape[0], len(paths)), dtype=np.float32)
    for k, path in enumerate(paths):
        reader.SetFileName(str(path))
        try:
            reader.Update()
        except RuntimeError as error:
            _check_kind_of_pixels(path)
            reason = str(error).strip().rsplit("\n", 1)[-1]
            raise SeriesError(
                f"{path}: the pixels cannot be decoded ({reason}); expected uncompressed ones, or a compression that "
                "ITK knows (is the file truncated?)."
            ) from error
        voxels[:, :, k] = itk.array_view_from_image(reader.GetOutput()).T
        bad = np.count_nonzero(~np.isfinite(voxels[:, :, k]))
        if bad:
            raise SeriesError(
                f"{path}: {bad} of {voxels[:, :, k].size} pixels are NaN or infinite after RescaleSlope and "
                "RescaleIntercept; expected finite float32."
            )
    return voxels


def _check_kind_of_pixels(path: Path) -> None:
    try:
        header = import_dicom("pydicom").dcmread(path, force=True)
    except Exception:  # a damaged file, of which ITK has said so
        return
    for name in ("FloatPixelData", "DoubleFloatPixelData"):
        if name in header:
            raise SeriesError(f"{path}: holds {name}; expected PixelData, as ITK reads only whole numbers.")
