# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from PIL import Image

from monai_segdiff.exceptions import ImageError
from monai_segdiff.io.image_in_memory import as_meta_tensor, is_rows_first

RGB = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
GREY = RGB[..., 0]
VOLUME = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (RGB, RGB),
        (Image.fromarray(RGB), RGB),
        (RGB[::-1, ::2], RGB[::-1, ::2]),
        (np.dstack([RGB, np.full((5, 7), 9, np.uint8)]), RGB),
        (GREY, np.dstack([GREY] * 3)),
        (Image.fromarray(GREY), np.dstack([GREY] * 3)),
        (Image.fromarray(GREY).convert("P"), np.dstack([GREY] * 3)),
    ],
)
def test_pictures_are_read_with_x_first(image: Any, expected: np.ndarray) -> None:
    found = as_meta_tensor(image, 2, 3)
    assert found.dtype == torch.float32
    assert found.meta["original_channel_dim"] == 0
    assert np.array_equal(found.numpy(), expected.transpose(2, 1, 0))
    assert is_rows_first(image)


@pytest.mark.parametrize("dtype", ["u1", "<i2", ">i2", "u2", "<u4", "f2", "<f4", ">f8"])
def test_arrays_of_volumes(dtype: str) -> None:
    found = as_meta_tensor(VOLUME.astype(dtype), 3, 1)
    assert found.dtype == torch.float32
    assert np.array_equal(found.numpy()[0], VOLUME)
    assert torch.equal(found.affine, torch.eye(4, dtype=torch.float64))


def test_tensors_keep_their_place_and_are_copied_off_their_history() -> None:
    affine = torch.diag(torch.tensor([2.0, 3.0, 4.0, 1.0], dtype=torch.float64))
    given = MetaTensor(torch.from_numpy(VOLUME[None]), affine=affine, meta={"original_channel_dim": float("nan")})
    given.applied_operations.append({"class": "Flip"})
    found = as_meta_tensor(given, 3, 1)
    assert torch.equal(found.affine, affine)
    assert not found.applied_operations
    assert found.meta["original_channel_dim"] == 0
    assert not is_rows_first(given)
    assert as_meta_tensor(torch.zeros(3, 4, 6, dtype=torch.uint8, requires_grad=False), 2, 3).shape == (3, 4, 6)


NAN = VOLUME.copy()
NAN[0, 1] = np.nan
NAN[1, 1, 1] = np.inf


@pytest.mark.parametrize(
    ("image", "dims", "channels", "message"),
    [
        (NAN, 3, 1, "The image: 5 of 24 values are NaN or infinite"),
        (torch.full((3, 4, 4), float("nan")), 2, 3, "48 of 48 values are NaN"),
        (VOLUME[None], 3, 1, "has shape [1, 1, 2, 3, 4]; expected 1 channel(s) first, and 3 axes"),
        (torch.zeros(2, 4, 4), 2, 3, "has shape [2, 4, 4]; expected 3 channel(s) first, and 2 axes"),
        (torch.zeros(4, 4), 2, 3, "has shape [4, 4]"),
        (np.zeros((0, 4, 4)), 3, 1, "is empty: shape [1, 0, 4, 4]"),
        (torch.zeros(3, 0, 4), 2, 3, "is empty: shape [3, 0, 4]"),
        (RGB.astype(np.float32), 2, 3, "is an array of float32, shape [5, 7, 3]; expected uint8"),
        (RGB.astype(np.uint16), 2, 3, "is an array of uint16"),
        (RGB[None], 2, 3, "shape [1, 5, 7, 3]; expected uint8 of shape [H, W]"),
        (RGB[..., :2], 2, 3, "shape [5, 7, 2]"),
        (RGB[:0], 2, 3, "is empty: shape [0, 7, 3]"),
        (np.array([[["a"]]]), 3, 1, "is an array of <U1; expected numbers"),
        (Image.fromarray(RGB).convert("CMYK"), 2, 3, "The image: has the mode CMYK"),
        (Image.fromarray(GREY.astype(np.uint16)), 2, 3, "The image: has the mode I;16"),
    ],
)
def test_refused(image: Any, dims: int, channels: int, message: str) -> None:
    with pytest.raises(ImageError, match=re.escape(message)):
        as_meta_tensor(image, dims, channels)


ZEROS = torch.zeros(1, 2, 3, 4)


@pytest.mark.parametrize(
    ("affine", "message"),
    [
        (torch.zeros(4, 4), "whose axes do not span a space"),
        (torch.diag(torch.tensor([1.0, 0.0, 1.0, 1.0])), "whose axes do not span a space"),
        (torch.full((4, 4), float("nan")), "expected [4, 4] finite numbers"),
        (torch.diag(torch.tensor([1000.0, 1.0, 1.0, 1.0])), "has voxels of 1000 x 1 x 1 mm; expected 0.001 to 50"),
        (torch.diag(torch.tensor([1.0, 1.0, 1e-6, 1.0])), "has voxels of 1 x 1 x 1e-06 mm"),
    ],
)
def test_volumes_that_lie_nowhere(affine: torch.Tensor, message: str) -> None:
    with pytest.raises(ImageError, match=re.escape(message)):
        as_meta_tensor(MetaTensor(ZEROS, affine=affine), 3, 1)


@pytest.mark.parametrize(
    "image",
    [
        np.ma.masked_array(VOLUME, mask=VOLUME > 3),
        ZEROS.to_sparse(),
        ZEROS.to(torch.complex64),
        torch.zeros(1, 2, 3, 4, device="meta"),
    ],
)
def test_numbers_that_are_not_plain(image: Any) -> None:
    with pytest.raises(ImageError, match="masked, sparse, complex or without values"):
        as_meta_tensor(image, 3, 1)


def test_pictures_that_pil_opened(tmp_path: Path) -> None:
    other = Image.fromarray(np.zeros((2, 3, 3), np.uint8))
    Image.fromarray(RGB).save(tmp_path / "a.tif", save_all=True, append_images=[other])
    with Image.open(os.fsencode(tmp_path / "a.tif")) as image:
        image.seek(1)  # its user's choice, and not undone
        assert as_meta_tensor(image, 2, 3).shape == (3, 3, 2)
        assert image.tell() == 1
    with Image.open(tmp_path / "a.tif") as image:
        pass
    with pytest.raises(ImageError, match="cannot be decoded"):
        as_meta_tensor(image, 2, 3)


@pytest.mark.parametrize(("image", "dims"), [(None, 2), ([1, 2], 3), (Image.fromarray(RGB), 3), (b"png", 2)])
def test_other_types(image: Any, dims: int) -> None:
    with pytest.raises(TypeError, match=f"The image: is a {type(image).__name__}; expected an array"):
        as_meta_tensor(image, dims, 3)
