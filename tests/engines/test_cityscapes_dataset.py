# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest

from monai_segdiff import cityscapes_split, generate_cityscapes_sample, prepare_cityscapes_dataset
from monai_segdiff.exceptions import DatasetError


def test_sample_scenes_are_generated_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sample = str(tmp_path / "sample")
    crops = prepare_cityscapes_dataset(sample, tmp_path / "crops", "bus", "expansion", sample_dir=sample)
    assert crops == tmp_path / "crops"
    assert f"Using the generated sample images in {sample}. For real images add" in capsys.readouterr().out
    assert (tmp_path / "sample" / "gtFine" / "val").is_dir()
    assert all(cityscapes_split(crops).values())
    prepare_cityscapes_dataset(sample, tmp_path / "crops", "bus", "expansion", sample_dir=sample)
    with pytest.raises(DatasetError, match="min_size=2, expected 30"):
        prepare_cityscapes_dataset(sample, tmp_path / "crops", "bus", "expansion", 30, sample)


def test_data_of_the_user_is_never_generated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DatasetError, match="does not exist; expected the folder of the Cityscapes downloads"):
        prepare_cityscapes_dataset(tmp_path / "mine", tmp_path / "crops", "bus", sample_dir=tmp_path / "sample")
    assert not list(tmp_path.iterdir())
    generate_cityscapes_sample(tmp_path / "mine", 5, (128, 160))
    prepare_cityscapes_dataset(tmp_path / "mine", tmp_path / "crops", "car", sample_dir=tmp_path / "sample")
    assert "Using" not in capsys.readouterr().out
    assert not (tmp_path / "sample").exists()
