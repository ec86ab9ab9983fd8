# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy.ndimage import binary_erosion
from scipy.spatial.distance import cdist

from monai_segdiff.handlers.scorers import SurfaceScorer
from monai_segdiff.metrics import compute_boundary_iou

SHAPE, SPACING = (12, 14, 10), (0.5, 1.0, 2.0)


def affine(spacing: tuple[float, ...]) -> torch.Tensor:
    """An oblique affine of a spacing."""
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(len(spacing),) * 2))[0]
    matrix = np.eye(len(spacing) + 1)
    matrix[:-1, :-1] = turn * spacing
    matrix[:-1, -1] = 7
    return torch.from_numpy(matrix)


def labels(*boxes: tuple[int, int, int], shape: tuple[int, ...] = SHAPE, spacing: Any = SPACING) -> MetaTensor:
    """Boxes (class, start, size) along the diagonal."""
    values = torch.zeros(1, *shape, dtype=torch.int64)
    for index, start, size in boxes:
        values[(0, *[slice(start, start + size)] * len(shape))] = index
    return MetaTensor(values, affine=affine(spacing))


def surface(mask: np.ndarray, spacing: Any) -> np.ndarray:
    return np.argwhere(mask & ~binary_erosion(mask)) * spacing


def brute_force(predicted: np.ndarray, truth: np.ndarray, spacing: Any, tolerance: float) -> tuple[float, float]:
    between = cdist(surface(predicted, spacing), surface(truth, spacing))
    nearest = [between.min(axis=axis) for axis in (1, 0)]
    share = np.mean(np.concatenate(nearest) <= tolerance)
    return float(share), float(max(np.quantile(distances, 0.95) for distances in nearest))


@pytest.mark.parametrize(("shape", "spacing"), [(SHAPE, SPACING), ((14, 12), (0.5, 2.0)), ((14, 12), (1.0, 1.0))])
@pytest.mark.parametrize("tolerance", [0.6, 1.0, 2.5])
def test_against_brute_force(shape: tuple[int, ...], spacing: tuple[float, ...], tolerance: float) -> None:
    item = {
        "pred": labels((1, 1, 4), (2, 6, 3), shape=shape, spacing=spacing),
        "label": labels((1, 2, 4), (2, 5, 4), shape=shape, spacing=spacing),
    }
    found = SurfaceScorer(["a", "b"], tolerance, relative_distance=0.1).measure(item).scores
    mean = np.zeros(3)
    for index, name in ((1, "a"), (2, "b")):
        masks = [(item[key][0] == index).numpy() for key in ("pred", "label")]
        dice, distance = brute_force(*masks, spacing, tolerance)
        band = compute_boundary_iou(
            *(torch.from_numpy(mask)[None, None] for mask in masks),
            relative_distance=0.1,
            spacing=spacing if len(shape) == 3 else None,
        ).item()
        expected = dice, distance, band
        assert [found[f"{score}_{name}"] for score in ("surface_dice", "hd95", "boundary_iou")] == pytest.approx(
            expected
        )
        mean += np.array(expected) / 2
    assert [found[score] for score in ("surface_dice", "hd95", "boundary_iou")] == pytest.approx(mean)


def test_a_known_shift() -> None:
    # A plate of two slices, moved by one slice of 2 mm: half of each surface is 2 mm away, half of it on the other.
    values = torch.zeros(2, 1, 6, 6, 8)
    values[0, ..., 2:4] = values[1, ..., 3:5] = 1
    item = {key: MetaTensor(v, affine=affine((1, 1, 2))) for key, v in zip(("pred", "label"), values, strict=True)}
    assert SurfaceScorer(["a"], tolerance=1.0).measure(item).scores["surface_dice"] == 0.5
    assert SurfaceScorer(["a"], tolerance=2.0).measure(item).scores["surface_dice"] == 1
    assert SurfaceScorer(["a"]).measure(item).scores["hd95"] == pytest.approx(2)


DIAGONAL = math.hypot(6, 14, 20)
EMPTY, ONE, BOTH = labels(), labels((1, 2, 4)), labels((1, 2, 4), (2, 7, 3))


@pytest.mark.parametrize(
    ("pred", "label", "first", "second", "mean"),
    [
        (EMPTY, EMPTY, (None, None, None), (None, None, None), (None, None, None)),
        (ONE, ONE, (1, 0, 1), (None, None, None), (1, 0, 1)),
        (EMPTY, ONE, (0, DIAGONAL, 0), (None, None, None), (0, DIAGONAL, 0)),
        (ONE, EMPTY, (0, DIAGONAL, 0), (None, None, None), (0, DIAGONAL, 0)),
        (ONE, BOTH, (1, 0, 1), (0, DIAGONAL, 0), (0.5, DIAGONAL / 2, 0.5)),
        (BOTH, ONE, (1, 0, 1), (0, DIAGONAL, 0), (0.5, DIAGONAL / 2, 0.5)),
    ],
)
def test_empty_classes(pred: MetaTensor, label: MetaTensor, first: tuple, second: tuple, mean: tuple) -> None:
    found = SurfaceScorer(["a", "b"]).measure({"pred": pred, "label": label}).scores
    for suffix, expected in (("_a", first), ("_b", second), ("", mean)):
        values = tuple(found[f"{score}{suffix}"] for score in ("surface_dice", "hd95", "boundary_iou"))
        assert values == (expected if None in expected else pytest.approx(expected))


def test_pooled_boundary_iou() -> None:
    scorer = SurfaceScorer(["a", "b"])
    data = [{"pred": labels((1, 1, 4)), "label": labels((1, 2, 4))}, {"pred": ONE, "label": BOTH}]
    counts = np.stack([scorer.measure(item).counts for item in data])
    assert counts.shape == (2, 4)
    (shared, union), missed = counts.sum(0)[:2], counts.sum(0)[2:]
    assert missed[0] == 0 < missed[1]
    expected = {"boundary_iou": shared / union / 2, "boundary_iou_a": shared / union, "boundary_iou_b": 0}
    assert {name: float(value) for name, value in scorer.pool(*counts.sum(0)).items()} == pytest.approx(expected)
    many = scorer.pool(*np.stack([counts.sum(0), counts[0]], axis=1))
    assert many["boundary_iou_a"].tolist() == pytest.approx([shared / union, counts[0, 0] / counts[0, 1]])
    np.testing.assert_array_equal(many["boundary_iou_b"], [0, np.nan])


def test_a_picture_with_a_volumes_affine() -> None:
    values = labels((1, 2, 4), shape=(14, 12), spacing=(1.0, 1.0))
    item = {
        "pred": MetaTensor(values.as_tensor(), affine=torch.diag(torch.tensor([1.0, 1.0, 9.0, 1.0]))),
        "label": values,
    }
    assert SurfaceScorer(["a"]).measure(item).scores["surface_dice"] == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pred": BOTH.as_tensor()}, "pred is a plain tensor, expected a MetaTensor"),
        ({"label": labels((1, 2, 4), spacing=(0.5, 1.0, 1.0))}, "pred and label have the spacing .* expected the same"),
        ({"pred": BOTH + 1}, "pred has values from 1 to 3, expected classes 0..2"),
        ({"label": labels(shape=(5, 5, 5))}, "expected equal shapes"),
    ],
)
def test_bad_items(changes: dict[str, Any], message: str) -> None:
    item = {"pred": BOTH, "label": BOTH}
    SurfaceScorer(["a", "b"]).measure(item | {"label": BOTH.as_tensor()})
    with pytest.raises(ValueError, match=message):
        SurfaceScorer(["a", "b"]).measure(item | changes)


@pytest.mark.parametrize("tolerance", [-1, math.nan, math.inf])
def test_bad_tolerance(tolerance: float) -> None:
    with pytest.raises(ValueError, match="tolerance is"):
        SurfaceScorer(["a"], tolerance)
