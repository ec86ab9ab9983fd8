# SPDX-License-Identifier: Apache-2.0
"""Images in memory, of all the kinds that callers have them in, as the transforms of bundles expect them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from PIL import Image

from ..data.rgb_reader import RGBReader
from ..data.voxel_grid import check_affine
from ..exceptions import ImageError

__all__ = ["as_meta_tensor", "check_image", "is_rows_first"]


def is_rows_first(image: Any) -> bool:
    """Whether the first spatial axis of this image runs down: of files, PIL pictures and arrays, not of tensors."""
    return not isinstance(image, torch.Tensor)


def as_meta_tensor(image: Any, spatial_dims: int, channels: int) -> MetaTensor:
    """Check an image and give it the form that MONAI's ``LoadImaged`` would have given its file.

    Args:
        image: of a picture (two dimensions, three channels): a PIL picture; an array ``[H, W]``, ``[H, W, 3]`` or
            ``[H, W, 4]``, uint8; a tensor ``[3, W, H]`` as MONAI loads it, 0 to 255. Of a volume: an array
            ``[X, Y, Z]``, taken as voxels of 1 mm in RAS order, or a tensor ``[1, X, Y, Z]``; a ``MetaTensor``
            says by its affine where the voxels lie.
        spatial_dims: 2 or 3.
        channels: channels that the network expects.

    Returns:
        float32 ``[channels, *spatial]``, x first.

    Raises:
        ImageError: another shape or type, an empty image, NaN or infinity.
        TypeError: none of these kinds.
    """
    if isinstance(image, np.ma.MaskedArray) or (isinstance(image, torch.Tensor) and not _is_plain(image)):
        raise ImageError("The image: is masked, sparse, complex or without values; expected plain real numbers.")
    if isinstance(image, Image.Image) and spatial_dims == 2:
        return _picture(image, channels)
    if isinstance(image, np.ndarray) and spatial_dims == 2:
        return _picture(_opened(image), channels)
    if isinstance(image, np.ndarray):
        # numpy's types that PyTorch does not know, and byte orders, go through float32
        if image.dtype.kind not in "iuf":
            raise ImageError(f"The image: is an array of {image.dtype}; expected numbers.")
        tensor = torch.from_numpy(np.array(image[None], dtype=np.float32))
        return _channel_first(tensor, torch.eye(4), spatial_dims, channels)
    if isinstance(image, torch.Tensor):
        affine = image.affine if isinstance(image, MetaTensor) else torch.eye(4)
        plain = image.as_tensor() if isinstance(image, MetaTensor) else image
        return _channel_first(plain.detach().cpu().float(), affine, spatial_dims, channels)
    kinds = "an array, a tensor or a path" + (", or a PIL picture" if spatial_dims == 2 else "")
    raise TypeError(f"The image: is a {type(image).__name__}; expected {kinds}.")


def _is_plain(tensor: torch.Tensor) -> bool:
    return tensor.layout == torch.strided and not tensor.is_meta and not tensor.is_complex() and not tensor.is_quantized


def _opened(array: np.ndarray) -> Image.Image:
    """The picture of an array."""
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise ImageError(
            f"The image: is an array of {array.dtype}, shape {list(array.shape)}; expected uint8 of shape [H, W], "
            "[H, W, 3] or [H, W, 4]."
        )
    if 0 in array.shape:
        raise ImageError(f"The image: is empty: shape {list(array.shape)}.")
    return Image.fromarray(array)


def _picture(image: Image.Image, channels: int) -> MetaTensor:
    rgb = RGBReader().decode(image, Path(os.fsdecode(getattr(image, "filename", "") or "The image")))
    array = np.asarray(rgb, dtype=np.float32).transpose(2, 1, 0)
    return _channel_first(torch.from_numpy(array.copy()), torch.eye(4), 2, channels)


def _channel_first(tensor: torch.Tensor, affine: torch.Tensor, spatial_dims: int, channels: int) -> MetaTensor:
    image = MetaTensor(tensor, affine=affine.detach().cpu().double().clone(), meta={"original_channel_dim": 0})
    return check_image(image, spatial_dims, channels)


def check_image(image: MetaTensor, spatial_dims: int, channels: int) -> MetaTensor:
    """Refuse what the network cannot take.

    Args:
        image: ``[channels, *spatial]``; messages call it by the file name in its metadata.
        spatial_dims: 2 or 3.
        channels: channels that the network expects.

    Returns:
        The image.

    Raises:
        ImageError: another shape, an empty image, NaN or infinity.
    """
    name = image.meta.get("filename_or_obj") or "The image"
    if image.ndim != spatial_dims + 1 or image.shape[0] != channels:
        raise ImageError(
            f"{name}: has shape {list(image.shape)}; expected {channels} channel(s) first, and {spatial_dims} axes."
        )
    if image.numel() == 0:
        raise ImageError(f"{name}: is empty: shape {list(image.shape)}.")
    if spatial_dims == 3:
        check_affine(image.affine.numpy(), name)
    bad = int((~torch.isfinite(image.as_tensor())).sum())
    if bad:
        raise ImageError(f"{name}: {bad} of {image.numel()} values are NaN or infinite; expected finite numbers.")
    return image
