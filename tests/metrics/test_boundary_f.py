# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy.ndimage import binary_dilation
from skimage.morphology import ball, disk

from monai_segdiff.metrics.boundary_f import (
    BoundaryFMetric,
    boundary_counts,
    boundary_f_of_counts,
    compute_boundary_f,
)


def brute_boundary(mask: np.ndarray) -> np.ndarray:
    """Pixel by pixel, as the definition reads."""
    boundary = np.zeros_like(mask)
    for point in np.ndindex(mask.shape):
        for offset in np.ndindex((2,) * mask.ndim):
            ahead = tuple(np.add(point, offset))
            if all(a < size for a, size in zip(ahead, mask.shape, strict=True)) and mask[ahead] != mask[point]:
                boundary[point] = True
    return boundary


def brute_force(prediction: np.ndarray, truth: np.ndarray, max_distance: int) -> float:
    p, t = brute_boundary(prediction), brute_boundary(truth)
    if not p.any() or not t.any():
        return float(p.any() == t.any())
    scores = []
    for radius in range(1, max_distance + 1):
        element = disk(radius) if p.ndim == 2 else ball(radius)
        precision = (p & binary_dilation(t, element.astype(bool))).sum() / p.sum()
        recall = (t & binary_dilation(p, element.astype(bool))).sum() / t.sum()
        scores.append(2 * precision * recall / (precision + recall) if precision + recall else 0.0)
    return float(np.mean(scores))


def one_hot(mask: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(mask.astype(np.float32))[None, None]


def square(row: int, column: int, size: int = 6, shape: tuple[int, int] = (40, 30)) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    mask[row : row + size, column : column + size] = True
    return mask


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("shape", [(17, 23), (9, 8, 11)])
def test_random_masks_against_brute_force(seed: int, shape: tuple[int, ...]) -> None:
    generator = np.random.default_rng(seed)
    density = (0.02, 0.1, 0.5)[seed % 3]
    prediction, truth = (generator.random(shape) < density for _ in range(2))
    distance = 1 + seed
    found = compute_boundary_f(one_hot(prediction), one_hot(truth), max_distance=distance)
    assert found.shape == (1, 1)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(brute_force(prediction, truth, distance), abs=1e-6)


@pytest.mark.parametrize(
    ("shift", "expected"),
    [
        (0, 1.0),
        (1, 1.0),
        (100, 0.0),
    ],
)
def test_shifted_square(shift: int, expected: float) -> None:
    truth = square(5, 5, shape=(140, 30))
    found = compute_boundary_f(one_hot(square(5 + shift, 5, shape=(140, 30))), one_hot(truth))
    assert found.item() == pytest.approx(expected)


def test_shift_lowers_small_tolerances_only() -> None:
    # A half plane moved by 3 rows: its one-row boundary is found at tolerances 3, 4 and 5, not at 1 and 2.
    truth, moved = np.zeros((30, 12), bool), np.zeros((30, 12), bool)
    truth[10:], moved[13:] = True, True
    assert compute_boundary_f(one_hot(moved), one_hot(truth)).item() == pytest.approx(3 / 5)
    assert compute_boundary_f(one_hot(moved), one_hot(truth), max_distance=2).item() == 0
    assert compute_boundary_f(one_hot(moved), one_hot(truth), max_distance=3).item() == pytest.approx(1 / 3)


EMPTY, FULL, OBJECT = np.zeros((40, 30), bool), np.ones((40, 30), bool), square(5, 5)


@pytest.mark.parametrize(
    ("prediction", "truth", "expected"),
    [
        (EMPTY, EMPTY, 1.0),
        (EMPTY, OBJECT, 0.0),
        (OBJECT, EMPTY, 0.0),
        (OBJECT, OBJECT, 1.0),
        (FULL, FULL, 1.0),
        (FULL, EMPTY, 1.0),  # neither has a boundary: stated in the definition
        (FULL, OBJECT, 0.0),
    ],
)
def test_empty_cases(prediction: np.ndarray, truth: np.ndarray, expected: float) -> None:
    assert compute_boundary_f(one_hot(prediction), one_hot(truth)).item() == expected


def test_added_counts_score_like_one_large_image() -> None:
    generator = np.random.default_rng(0)
    pairs = [[np.pad(generator.random((15, 12)) < 0.1, 8) for _ in range(2)] for _ in range(3)]
    pairs.append([np.zeros((31, 28), dtype=bool), square(9, 9, shape=(31, 28))])
    added = sum(boundary_counts(*pair, 5) for pair in pairs)
    # Side by side, with margins wider than the tolerance, the images cannot tell that they have neighbours.
    together = [one_hot(np.concatenate(masks)) for masks in zip(*pairs, strict=True)]
    assert float(boundary_f_of_counts(*added)) == pytest.approx(compute_boundary_f(*together, 5).item(), abs=1e-6)


def test_last_row_and_column() -> None:
    # An object in the corner has its boundary on the pixels before it; nothing lies outside the image.
    corner = np.zeros((6, 6), bool)
    corner[5, 5] = True
    assert brute_boundary(corner).sum() == 3
    assert compute_boundary_f(one_hot(corner), one_hot(corner)).item() == 1
    line = np.zeros((6, 6), bool)
    line[5] = True  # boundary: row 4
    other = np.zeros((6, 6), bool)
    other[4:] = True  # boundary: row 3
    assert compute_boundary_f(one_hot(line), one_hot(other), max_distance=1).item() == 1


def test_channels_batch_and_background() -> None:
    truth = torch.cat([1 - one_hot(OBJECT), one_hot(OBJECT)], dim=1).repeat(2, 1, 1, 1)
    prediction = truth.clone()
    prediction[1, 1] = 0
    scores = compute_boundary_f(prediction, truth)
    assert scores.tolist() == [[1, 1], [1, 0]]
    assert compute_boundary_f(prediction, truth, include_background=False).tolist() == [[1], [0]]
    assert compute_boundary_f(one_hot(OBJECT), one_hot(OBJECT), include_background=False).tolist() == [[1]]


@pytest.mark.parametrize("kind", [torch.uint8, torch.bool, torch.bfloat16, torch.int64])
def test_types(kind: torch.dtype) -> None:
    mask = MetaTensor(one_hot(OBJECT).to(kind))
    assert compute_boundary_f(mask, mask).item() == 1


def test_metric_api() -> None:
    metric = BoundaryFMetric(max_distance=2, get_not_nans=True)
    metric(y_pred=[one_hot(OBJECT)[0], one_hot(EMPTY)[0]], y=[one_hot(OBJECT)[0], one_hot(OBJECT)[0]])
    metric(y_pred=one_hot(EMPTY), y=one_hot(EMPTY))
    score, not_nans = metric.aggregate()
    assert score.item() == pytest.approx(2 / 3)
    assert not_nans.item() == 3
    each, _ = metric.aggregate(reduction="none")
    assert each.tolist() == [[1], [0], [1]]
    metric.reset()
    with pytest.raises(ValueError, match="call the metric first"):
        metric.aggregate()
    assert isinstance(BoundaryFMetric(reduction="sum")(one_hot(OBJECT), one_hot(OBJECT)), torch.Tensor)


GOOD = one_hot(OBJECT)


@pytest.mark.parametrize(
    ("prediction", "truth", "distance", "message"),
    [
        (torch.full_like(GOOD, torch.nan), GOOD, 5, "y_pred holds NaN"),
        (GOOD, torch.full_like(GOOD, torch.nan), 5, "y holds NaN"),
        (GOOD * 0.7, GOOD, 5, "not binarised"),
        (GOOD, GOOD[..., 1:], 5, "expected equal shapes"),
        (GOOD[0], GOOD[0], 5, "expected \\[B, C, H, W\\]"),
        (GOOD, GOOD, 0, "max_distance is 0"),
        (GOOD, GOOD, 1.5, "max_distance is 1.5"),
    ],
)
def test_errors(prediction: torch.Tensor, truth: torch.Tensor, distance: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compute_boundary_f(prediction, truth, distance)  # type: ignore[arg-type]
