# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from monai_segdiff.data.voxel_grid import grid_distance

SHAPE = (5, 7, 4)


def random_affine(rng: np.random.Generator) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.random(random_state=rng).as_matrix() * rng.uniform(0.5, 3, 3)
    affine[:3, 3] = rng.uniform(-50, 50, 3)
    return affine


def test_brute_force_over_all_voxels() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        affine = random_affine(rng)
        other = affine + rng.normal(0, 0.1, (4, 4)) * np.array([1, 1, 1, 0])[:, None]
        largest = 0.0
        for index in np.ndindex(*SHAPE):
            here = np.linalg.inv(affine) @ other @ (*index, 1)
            largest = max(largest, *np.abs(here[:3] - index))
        assert grid_distance(affine, other, SHAPE) == pytest.approx(largest, rel=1e-9)


def test_closed_forms() -> None:
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    assert grid_distance(affine, affine, SHAPE) == 0
    shifted = affine.copy()
    shifted[1, 3] = -3.0
    assert grid_distance(affine, shifted, SHAPE) == 1.5
    assert grid_distance(affine, np.diag([2.0, 2.0, 2.5, 1.0]), (1, 1, 5)) == 1.0
    assert grid_distance(affine, np.diag([-2.0, 2.0, 2.0, 1.0]), SHAPE) == 8.0
