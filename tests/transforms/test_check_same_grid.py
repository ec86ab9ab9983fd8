# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_segdiff import CheckSameGridd
from monai_segdiff.exceptions import AnnotationError


def item(affine: np.ndarray, name: str, size: tuple[int, ...] = (1, 9, 7, 11)) -> MetaTensor:
    return MetaTensor(torch.ones(size), affine=torch.as_tensor(affine), meta={"filename_or_obj": name})


def changed(row: int, column: int, by: float) -> np.ndarray:
    affine = np.diag([1.0, 1.0, 2.5, 1.0])
    affine[row, column] += by
    return affine


IMAGE = item(changed(0, 0, 0), "a.nii.gz")


@pytest.mark.parametrize(("row", "column", "by"), [(0, 0, 0), (0, 0, 1e-6), (0, 3, 0.09), (2, 3, 0.24), (2, 2, 0.024)])
def test_rounding_is_removed(row: int, column: int, by: float) -> None:
    label = item(changed(row, column, by), "b.nii.gz")
    result = CheckSameGridd(keys="label")({"image": IMAGE, "label": label})
    assert torch.equal(result["label"].affine, IMAGE.affine)
    assert torch.equal(result["label"].as_tensor(), label.as_tensor())
    assert result["label"].meta["filename_or_obj"] == "b.nii.gz"
    assert np.array_equal(label.affine, changed(row, column, by)), "the item given is left as it was"


@pytest.mark.parametrize(
    ("row", "column", "by", "distance"),
    [(0, 3, 0.11, "0.11"), (2, 3, 0.26, "0.104"), (2, 2, 0.026, "0.104"), (0, 0, -2, "16"), (1, 0, 0.1, "0.8")],
)
def test_other_places_are_refused(row: int, column: int, by: float, distance: str) -> None:
    data = {"image": IMAGE, "label": item(changed(row, column, by), "b.nii.gz")}
    message = rf"b\.nii\.gz: its voxels lie up to {distance} voxels beside those of its image a\.nii\.gz .* most 0\.1"
    with pytest.raises(AnnotationError, match=message):
        CheckSameGridd(keys="label")(data)
    result = CheckSameGridd(keys="label", tolerance=20)(data)
    assert torch.equal(result["label"].affine, IMAGE.affine)


def test_nan_is_refused() -> None:
    with pytest.raises(AnnotationError, match="nan voxels beside"):
        CheckSameGridd(keys="label")({"image": IMAGE, "label": item(changed(0, 3, np.nan), "b.nii.gz")})


def test_other_sizes_are_refused() -> None:
    data = {"image": IMAGE, "label": item(changed(0, 0, 0), "b.nii.gz", (1, 9, 7, 10))}
    with pytest.raises(AnnotationError, match=r"b\.nii\.gz: has size \[9, 7, 10\], expected \[9, 7, 11\]"):
        CheckSameGridd(keys="label")(data)


def test_keys() -> None:
    data = {"picture": IMAGE}
    assert CheckSameGridd(keys="label", image_key="picture", allow_missing_keys=True)(data) == data
