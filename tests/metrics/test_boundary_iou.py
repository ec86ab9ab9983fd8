# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy.ndimage import binary_erosion

from monai_segdiff.metrics.boundary_iou import (
    BoundaryIoUMetric,
    boundary_iou_counts,
    boundary_iou_of_counts,
    compute_boundary_iou,
)

SHAPE = (40, 30)


def one_hot(mask: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(mask.astype(np.float32))[None, None]


def square(row: int, column: int, size: int, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    mask[row : row + size, column : column + size] = True
    return mask


def published_band(mask: np.ndarray, distance: int) -> np.ndarray:
    """The mask minus its erosion, repeated, by a square; beyond the frame lies background."""
    element = np.ones((3,) * mask.ndim)
    return mask & ~binary_erosion(mask, element, iterations=distance, border_value=0)


def euclidean_band(mask: np.ndarray, distance: float, spacing: tuple[float, ...]) -> np.ndarray:
    """Voxel by voxel, as the definition reads."""
    padded = np.pad(mask, 1)
    outside = np.argwhere(~padded)
    band = np.zeros_like(padded)
    for voxel in np.argwhere(padded):
        steps = np.abs(outside - voxel)
        near = (np.linalg.norm(steps * spacing, axis=1) <= distance).any()
        band[tuple(voxel)] = near or (steps.sum(axis=1) == 1).any()
    return band[(slice(1, -1),) * mask.ndim]


def quotient(first: np.ndarray, second: np.ndarray) -> float:
    return (first & second).sum() / (first | second).sum()


def blobs(seed: int, shape: tuple[int, ...]) -> list[np.ndarray]:
    """Two masks, thick enough to have an inside, that touch the frame here and there."""
    draw = np.random.default_rng(seed)
    masks = []
    for _ in range(2):
        mask = np.zeros(shape, dtype=bool)
        for _ in range(3):
            start = [draw.integers(0, size // 2) for size in shape]
            mask[tuple(slice(low, low + draw.integers(2, size)) for low, size in zip(start, shape, strict=True))] = True
        masks.append(mask)
    return masks


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("shape", [(23, 31), (11, 9, 13)])
@pytest.mark.parametrize("distance", [1, 2, 4])
def test_pixels_against_repeated_erosion(seed: int, shape: tuple[int, ...], distance: int) -> None:
    prediction, truth = blobs(seed, shape)
    found = compute_boundary_iou(one_hot(prediction), one_hot(truth), distance=distance)
    assert found.shape == (1, 1)
    assert found.dtype == torch.float32
    expected = quotient(published_band(prediction, distance), published_band(truth, distance))
    assert 0 < expected < 1
    assert found.item() == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("shape", "spacing", "distance"),
    [
        ((15, 12), (1.0, 1.0), 1.5),
        ((15, 12), (0.5, 2.0), 1.2),
        ((8, 9, 7), (1.0, 1.0, 1.0), 2.0),
        ((8, 9, 7), (0.7, 1.0, 2.5), 1.5),  # narrower than a voxel along the last axis
    ],
)
def test_spacing_against_brute_force(
    seed: int, shape: tuple[int, ...], spacing: tuple[float, ...], distance: float
) -> None:
    prediction, truth = blobs(seed, shape)
    found = compute_boundary_iou(one_hot(prediction), one_hot(truth), distance=distance, spacing=spacing)
    expected = quotient(*(euclidean_band(mask, distance, spacing) for mask in (prediction, truth)))
    assert 0 < expected < 1
    assert found.item() == pytest.approx(expected)


@pytest.mark.parametrize(("size", "margin", "distance"), [(10, 1, 3), (9, 1, 2), (8, 2, 4), (10, 2, 1)])
def test_concentric_squares(size: int, margin: int, distance: int) -> None:
    large, hole = size + 2 * margin, max(size + 2 * margin - 2 * distance, 0)
    shared = max(size**2 - hole**2, 0)
    small_hole = max(size - 2 * distance, 0)
    union = large**2 - hole**2 + size**2 - small_hole**2 - shared
    counts = boundary_iou_counts(square(10, 10, size), square(10 - margin, 10 - margin, large), distance)
    assert counts.tolist() == [shared, union]


def test_the_frame_is_a_boundary() -> None:
    full = np.ones((12, 17), dtype=bool)
    inner = np.zeros_like(full)
    inner[2:-2, 2:-2] = True
    assert boundary_iou_counts(full, inner, distance=2).tolist() == [0, 12 * 17 - 4 * 9]
    assert boundary_iou_counts(full, full, distance=2).tolist() == [12 * 17 - 8 * 13] * 2
    assert boundary_iou_counts(full, full, distance=2.0, spacing=(1, 1)).tolist() == [12 * 17 - 8 * 13] * 2


@pytest.mark.parametrize(
    ("shape", "relative", "distance"),
    [
        ((300, 400), 0.02, 10),
        ((96, 128), 0.02, 3),  # 3.2
        ((165, 52), 0.02, 3),  # 3.46
        ((132, 224), 0.02, 5),  # 5.2
        ((20, 20), 0.02, 1),  # 0.57 pixels, and never less than one
        ((5, 5), 0.02, 1),
        ((30, 40), 0.1, 5),
    ],
)
def test_width_relative_to_the_diagonal(shape: tuple[int, int], relative: float, distance: int) -> None:
    full = np.ones(shape, dtype=bool)
    band = np.prod(shape) - np.prod([max(size - 2 * distance, 0) for size in shape])
    assert boundary_iou_counts(full, full, relative_distance=relative).tolist() == [band] * 2
    assert boundary_iou_counts(full, full, distance=distance).tolist() == [band] * 2


def test_width_relative_to_the_diagonal_in_the_unit_of_the_spacing() -> None:
    # 0.02 of a diagonal of 500 mm: 10 mm, which is 20 and 5 pixels.
    full = np.ones((600, 200), dtype=bool)
    counts = boundary_iou_counts(full, full, spacing=(0.5, 2.0))
    assert counts.tolist() == boundary_iou_counts(full, full, distance=10.0, spacing=(0.5, 2.0)).tolist()
    assert math.hypot(600 * 0.5, 200 * 2) == 500
    assert counts[1] == 600 * 200 - 560 * 190


def test_scaled_space_gives_equal_counts() -> None:
    prediction, truth = blobs(5, (9, 10, 8))
    found = [
        boundary_iou_counts(
            prediction, truth, relative_distance=0.15, spacing=tuple(k * s for s in (1, 2, 0.5))
        ).tolist()
        for k in (1, 4)
    ]
    assert found[0] == found[1]


EMPTY, OBJECT = np.zeros(SHAPE, bool), square(5, 5, 6)


@pytest.mark.parametrize("spacing", [None, (1.0, 2.0)])
@pytest.mark.parametrize(
    ("prediction", "truth", "expected"),
    [(EMPTY, EMPTY, math.nan), (EMPTY, OBJECT, 0), (OBJECT, EMPTY, 0), (OBJECT, OBJECT, 1), (OBJECT, ~EMPTY, 0)],
)
def test_empty_cases(prediction: np.ndarray, truth: np.ndarray, expected: float, spacing: Any) -> None:
    found = compute_boundary_iou(one_hot(prediction), one_hot(truth), spacing=spacing).item()
    assert found == pytest.approx(expected, nan_ok=True)


def test_scores_of_arrays_of_counts() -> None:
    found = boundary_iou_of_counts(np.array([[1, 0], [0, 3]]), np.array([[2, 0], [5, 3]]))
    np.testing.assert_array_equal(found, [[0.5, np.nan], [0, 1]])


def test_channels_and_background() -> None:
    truth = torch.cat([1 - one_hot(OBJECT), one_hot(OBJECT)], dim=1).repeat(2, 1, 1, 1)
    prediction = truth.clone()
    prediction[1, 1] = 0
    assert compute_boundary_iou(prediction, truth).tolist() == [[1, 1], [1, 0]]
    assert compute_boundary_iou(prediction, truth, include_background=False).tolist() == [[1], [0]]


@pytest.mark.parametrize("kind", [torch.uint8, torch.bool, torch.bfloat16, torch.int64])
def test_types(kind: torch.dtype) -> None:
    mask = MetaTensor(one_hot(OBJECT).to(kind))
    assert compute_boundary_iou(mask, mask).item() == 1


def test_pooled_and_mean_of_images() -> None:
    pairs = [blobs(seed, SHAPE) for seed in range(3)] + [[EMPTY, OBJECT], [EMPTY, EMPTY]]
    batch = [torch.cat([one_hot(pair[i]) for pair in pairs]) for i in range(2)]
    counts = np.array([boundary_iou_counts(*pair, distance=2) for pair in pairs])
    metric = BoundaryIoUMetric(distance=2, get_not_nans=True)
    assert metric(*batch)[:, 0].tolist() == counts.tolist()
    score, not_nans = metric.aggregate()
    assert score.item() == pytest.approx(counts[:, 0].sum() / counts[:, 1].sum())
    assert not_nans.item() == 1
    single = BoundaryIoUMetric(distance=2, pooled=False)
    for prediction, truth in zip(*batch, strict=True):
        single(y_pred=[prediction], y=[truth])
    # The image without an object is left out, the one whose object was missed is not.
    expected = [quotient(*(published_band(mask, 2) for mask in pair)) for pair in pairs[:3]] + [0]
    assert single.aggregate().item() == pytest.approx(np.mean(expected))
    assert single.aggregate("none")[:, 0].tolist() == pytest.approx([*expected, math.nan], nan_ok=True)
    single.reset()
    with pytest.raises(ValueError, match="call the metric first"):
        single.aggregate()


def test_metric_takes_background_and_spacing() -> None:
    prediction, truth = (one_hot(mask) for mask in blobs(1, SHAPE))
    metric = BoundaryIoUMetric(relative_distance=0.05, include_background=False)
    metric(y_pred=torch.cat([prediction] * 2, 1), y=torch.cat([truth] * 2, 1), spacing=(0.5, 2.0))
    expected = compute_boundary_iou(prediction, truth, relative_distance=0.05, spacing=(0.5, 2.0))
    assert metric.aggregate().item() == pytest.approx(expected.item())
    assert expected.item() != compute_boundary_iou(prediction, truth, relative_distance=0.05).item()


GOOD = one_hot(OBJECT)


@pytest.mark.parametrize(
    ("prediction", "truth", "options", "message"),
    [
        (GOOD * torch.nan, GOOD, {}, "prediction has values from nan to nan"),
        (GOOD, GOOD * 0.7, {}, "truth has values from 0 to 0.7, expected only 0 and 1"),
        (GOOD, GOOD[..., 1:], {}, "expected equal shapes"),
        (GOOD[0], GOOD[0], {}, r"expected \[B, C, H, W\]"),
        (GOOD, GOOD, {"distance": 0}, "distance is 0, expected a whole number of pixels, at least 1"),
        (GOOD, GOOD, {"distance": 1.5}, "distance is 1.5, expected a whole number"),
        (GOOD, GOOD, {"distance": math.nan}, "distance is nan"),
        (GOOD, GOOD, {"distance": -1.5, "spacing": (1, 1)}, "distance is -1.5, expected a number above 0"),
        (GOOD, GOOD, {"relative_distance": 0}, "relative_distance is 0, expected"),
        (GOOD, GOOD, {"spacing": (1, 1, 1)}, r"spacing is \(1, 1, 1\), expected 2 numbers above 0"),
        (GOOD, GOOD, {"spacing": (1, 0)}, "expected 2 numbers above 0"),
        (GOOD, GOOD, {"spacing": (1, math.nan)}, "expected 2 numbers above 0"),
    ],
)
def test_errors(prediction: torch.Tensor, truth: torch.Tensor, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compute_boundary_iou(prediction, truth, **options)


def test_arrays_must_agree() -> None:
    with pytest.raises(ValueError, match=r"prediction has shape \(6, 30\) and truth \(40, 30\)"):
        boundary_iou_counts(EMPTY[:6], EMPTY)
