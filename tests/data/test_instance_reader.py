# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from monai.transforms import LoadImage
from PIL import Image

from monai_segdiff.data import AperioReader, InstanceReader
from monai_segdiff.exceptions import ImageError

NUMBERS = np.zeros((5, 9), np.int64)
NUMBERS[1:3, 0:4], NUMBERS[3, 8] = 7, 200


@pytest.mark.parametrize(
    ("suffix", "kind", "offset", "options"),
    [
        (".png", np.uint8, 0, {}),
        (".png", np.uint16, 60000, {}),
        (".tif", np.uint8, 0, {}),
        (".tif", np.uint16, 60000, {"compression": "tiff_lzw"}),
        (".tif", np.int32, 100000, {}),
    ],
)
def test_numbers_survive(tmp_path: Path, suffix: str, kind: Any, offset: int, options: dict[str, str]) -> None:
    values = np.where(NUMBERS > 0, NUMBERS + offset, 0)
    path = tmp_path / f"a{suffix}"
    Image.fromarray(values.astype(kind)).save(path, **options)
    load = LoadImage(reader=[InstanceReader(), AperioReader(mode="instance")], image_only=True)
    # Columns first, as MONAI's readers deliver.
    assert np.array_equal(load(path).numpy(), values.T)
    assert InstanceReader(reverse_indexing=False).get_data([path])[0].dtype == np.int32


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: Image.new("RGB", (4, 4)).save(path), "has the mode RGB"),
        (lambda path: tifffile.imwrite(path, np.full((4, 4), 0.5, np.float32)), "has the mode F"),
        (lambda path: tifffile.imwrite(path, np.full((4, 4), -1, np.int32)), "holds -1"),
        (lambda path: Image.fromarray(np.eye(4, dtype=np.uint8) * 255).save(path), "holds a mask of 0 and 255"),
        (lambda path: path.write_bytes(b"II*\0"), "cannot be decoded"),
    ],
)
def test_bad_files(tmp_path: Path, make: Any, message: str) -> None:
    path = tmp_path / "a.tif"
    make(path)
    with pytest.raises(ImageError, match=message):
        InstanceReader().get_data([path])
