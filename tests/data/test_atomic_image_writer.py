# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import SaveImage
from PIL import Image

from monai_segdiff import AtomicPILWriter


def save(folder: Path) -> None:
    mask = MetaTensor(torch.zeros(1, 9, 5), meta={"filename_or_obj": "a.tif"})
    mask[:, 6:, 1:3] = 1
    saver = SaveImage(
        output_dir=folder,
        output_postfix="mask",
        output_ext=".png",
        output_dtype=np.uint8,
        scale=255,
        resample=False,
        separate_folder=False,
        writer=AtomicPILWriter,
        print_log=False,
    )
    saver(mask)


def test_writes_what_monai_writes(tmp_path: Path) -> None:
    save(tmp_path)
    expected = np.zeros((5, 9), dtype=np.uint8)
    expected[1:3, 6:] = 255
    assert np.array_equal(np.array(Image.open(tmp_path / "a_mask.png")), expected)
    assert [path.name for path in tmp_path.iterdir()] == ["a_mask.png"]


def test_a_failure_leaves_the_old_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path)
    old = (tmp_path / "a_mask.png").read_bytes()

    def fail(image: Image.Image, path: Path, *args: object, **kwargs: object) -> None:
        Path(path).write_bytes(b"half a pic")
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(Exception, match="disk full"):
        save(tmp_path)
    assert (tmp_path / "a_mask.png").read_bytes() == old
    assert [path.name for path in tmp_path.iterdir()] == ["a_mask.png"]
