# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from skimage.measure import label

from monai_segdiff.metrics.aggregated_jaccard import compute_aggregated_jaccard
from monai_segdiff.transforms.probability_to_instances import (
    ProbabilityToInstances,
    ProbabilityToInstancesD,
    ProbabilityToInstancesd,
    ProbabilityToInstancesDict,
)


def ball(shape: tuple[int, ...], centre: tuple[int, ...], radius: float) -> np.ndarray:
    squares = [(axis - c) ** 2 for axis, c in zip(np.indices(shape), centre, strict=True)]
    return np.sum(squares, axis=0) < radius**2


def instances_of(mask: np.ndarray, **options: Any) -> np.ndarray:
    return ProbabilityToInstances(**options)(mask[None].astype(np.float32))[0]


def without_small(mask: np.ndarray, min_size: int) -> np.ndarray:
    """Region by region, as the definition reads."""
    regions = label(mask, connectivity=1)
    kept = [regions == region for region in range(1, regions.max() + 1) if (regions == region).sum() >= min_size]
    return np.any(kept, axis=0) if kept else np.zeros_like(mask)


@pytest.mark.parametrize("shape", [(24, 21), (9, 8, 10)])
@pytest.mark.parametrize("density", [0.2, 0.6, 0.9])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"min_size": 0, "sigma": 0, "min_distance": 1},
        {"min_size": 0, "sigma": 3, "min_distance": 5},
        {"min_size": 12, "sigma": 0, "min_distance": 3},
    ],
)
def test_random_masks(shape: tuple[int, ...], density: float, options: dict[str, Any]) -> None:
    mask = np.random.default_rng(0).random(shape) < density
    min_size = options.get("min_size", 5)
    expected = without_small(~without_small(~mask, min_size), min_size)
    found = instances_of(mask, **options)
    assert found.dtype == np.int32
    assert ((found > 0) == expected).all()
    assert np.unique(found[expected]).tolist() == list(range(1, found.max() + 1))
    # Every region holds at least one instance, and no instance reaches into another region.
    regions = label(expected, connectivity=1)
    pairs = np.unique(np.stack([found[expected], regions[expected]]), axis=1)
    assert pairs.shape[1] == found.max()
    assert np.unique(pairs[1]).tolist() == list(range(1, regions.max() + 1))


@pytest.mark.parametrize(
    ("shape", "centres"),
    [
        ((40, 50), ((20, 15), (20, 31))),
        ((40, 50), ((14, 18), (26, 30))),
        ((40, 50), ((0, 15), (0, 31))),  # cut by the edge of the image
        ((24, 24, 40), ((12, 12, 11), (12, 12, 27))),
    ],
)
def test_touching_objects_come_apart(shape: tuple[int, ...], centres: tuple[tuple[int, ...], ...]) -> None:
    first, second = (ball(shape, centre, 9) for centre in centres)
    found = instances_of(first | second)
    assert found.max() == 2
    truth = np.where(first & ~second, 1, 0) + np.where(second & ~first, 2, 0)
    tensors = [torch.from_numpy(each)[None, None] for each in (found * (truth > 0), truth)]
    assert compute_aggregated_jaccard(*tensors).item() > 0.98


def test_equal_peaks_at_a_diagonal_share_a_marker() -> None:
    probability = torch.zeros(1, 8, 8)
    probability[:, 1:4, 1:4] = probability[:, 3:6, 3:6] = 1
    separate = ProbabilityToInstances(sigma=0, min_distance=2, min_size=0)
    assert separate(probability).max() == 1
    # Regions that touch at a corner are two, however near their peaks.
    probability = torch.zeros(1, 8, 8)
    probability[:, 1:3, 1:3] = probability[:, 3:5, 3:5] = 1
    found = separate(probability)[0]
    assert found[1, 1] != found[4, 4]
    assert found.max() == 2


def test_cut_runs_through_the_neck() -> None:
    large, small = ball((40, 40), (20, 14), 12), ball((40, 40), (20, 30), 6)
    found = instances_of(large | small)
    assert (found[large & ~small] == 1).all()
    assert (found[small & ~large] == 2).all()


def test_edge_of_the_image_is_no_background() -> None:
    pair = ball((30, 60), (2, 20), 10) | ball((30, 60), (2, 32), 8)
    assert instances_of(pair).max() == 1
    assert instances_of(np.pad(pair, ((1, 0), (0, 0)))).max() == 2


@pytest.mark.parametrize(("min_distance", "expected"), [(1, 2), (9, 2), (10, 1), (15, 1)])
def test_equal_peaks_within_the_distance_share_a_marker(min_distance: int, expected: int) -> None:
    pair = ball((30, 40), (15, 14), 6) | ball((30, 40), (15, 24), 6)
    assert instances_of(pair, min_distance=min_distance, sigma=0).max() == expected


def test_peak_below_a_slope_within_the_distance_is_no_marker() -> None:
    # 12 pixels from the small ball's centre, the large one is 8 deep; its own centre is 16 away.
    pair = ball((40, 40), (20, 14), 12) | ball((40, 40), (20, 30), 6)
    assert instances_of(pair, min_distance=8, sigma=0).max() == 2
    assert instances_of(pair, min_distance=12, sigma=0).max() == 1


def test_sigma_smooths_the_distance() -> None:
    rows, columns = np.indices((60, 60)) - 30
    sine, cosine = np.sin(np.pi / 9), np.cos(np.pi / 9)
    slanted = ((cosine * columns + sine * rows) / 22) ** 2 + ((cosine * rows - sine * columns) / 8) ** 2 < 1
    assert instances_of(slanted).max() == 1
    assert instances_of(slanted, sigma=0).max() > 1


RECTANGLE = np.zeros((20, 60), dtype=bool)
RECTANGLE[5:8, 10:50] = True


@pytest.mark.parametrize(
    "mask",
    [
        np.ones((9, 12), dtype=bool),
        np.ones((5, 6, 4), dtype=bool),
        np.ones((1, 7), dtype=bool),
        np.eye(1, dtype=bool),
        RECTANGLE,  # its ridge is one plateau
        RECTANGLE.T,
        ball((30, 30), (15, 15), 10),
        ball((30, 30), (0, 0), 10),
        np.pad(np.ones((1, 1), dtype=bool), 3),
    ],
)
@pytest.mark.parametrize("sigma", [0, 1.25])
def test_one_object(mask: np.ndarray, sigma: float) -> None:
    assert (instances_of(mask, sigma=sigma, min_size=0) == mask).all()


@pytest.mark.parametrize("min_distance", [1, 2, 6])
def test_regions_that_touch_at_corners_stay_apart(min_distance: int) -> None:
    found = instances_of(np.eye(6, dtype=bool), min_size=0, min_distance=min_distance)
    assert found.diagonal().tolist() == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(("min_size", "kept"), [(0, True), (6, True), (7, False)])
def test_small_regions_change_sides(min_size: int, kept: bool) -> None:
    mask = np.zeros((30, 30), dtype=bool)
    mask[2:4, 2:5] = True
    mask[10:25, 10:25] = True
    mask[16:18, 16:19] = False
    found = instances_of(mask, min_size=min_size) > 0
    assert found[2:4, 2:5].all() == found[2:4, 2:5].any() == kept
    assert found[16:18, 16:19].any() == found[16:18, 16:19].all() == (not kept)
    found[2:4, 2:5], found[16:18, 16:19] = True, False
    assert (found == mask).all()


def test_holes_are_filled_before_objects_are_measured() -> None:
    ring = np.pad(np.ones((3, 3), dtype=bool), 3)
    ring[4, 4] = False
    assert instances_of(ring, min_size=9).sum() == 9
    assert instances_of(ring, min_size=10).sum() == 0


def test_exactly_the_threshold_is_background() -> None:
    probability = torch.full((1, 8, 8), 0.5)
    assert ProbabilityToInstances()(probability).max() == 0
    assert ProbabilityToInstances()(torch.nextafter(probability, torch.ones(()))).min() == 1
    assert ProbabilityToInstances(threshold=0.7)(torch.full((1, 8, 8), 0.7)).max() == 0
    assert ProbabilityToInstances(threshold=0.4)(probability).min() == 1
    assert ProbabilityToInstances()(torch.zeros(1, 8, 8)).max() == 0


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64, torch.uint8, torch.bool])
def test_types(kind: torch.dtype) -> None:
    data = torch.from_numpy(RECTANGLE)[None].to(kind)
    found = ProbabilityToInstances()(data)
    assert type(found) is torch.Tensor
    assert found.dtype == torch.int32
    assert (found == data).all()


def test_dictionary_form_keeps_meta_data_and_other_items() -> None:
    probability = MetaTensor(torch.from_numpy(RECTANGLE[None] * 0.6), meta={"filename_or_obj": "a.png"})
    data = {"pred": probability, "image": 1}
    result = ProbabilityToInstancesd(keys="pred")(data)
    assert isinstance(result["pred"], MetaTensor)
    assert result["pred"].meta["filename_or_obj"] == "a.png"
    assert result["pred"].dtype == torch.int32
    assert result["pred"].shape == (1, *RECTANGLE.shape)
    assert result["image"] == 1
    assert data["pred"] is probability
    assert probability.max() == 0.6
    with_missing = ProbabilityToInstancesd(keys=["pred", "absent"], allow_missing_keys=True)(data)
    assert (with_missing["pred"] == result["pred"]).all()
    with pytest.raises(KeyError):
        ProbabilityToInstancesd(keys="absent")(data)
    assert ProbabilityToInstancesD is ProbabilityToInstancesDict is ProbabilityToInstancesd


def test_dictionary_form_passes_its_options_on() -> None:
    transform = ProbabilityToInstancesd("pred", threshold=0.3, min_distance=4, sigma=2, min_size=9).transform
    options = transform.threshold, transform.min_distance, transform.sigma, transform.min_size
    assert options == (0.3, 4, 2, 9)
    plain, default = ProbabilityToInstancesd("pred").transform, ProbabilityToInstances()
    assert vars(plain) == vars(default)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (torch.zeros(8, 8), r"shape \(8, 8\), expected \[1, H, W\]"),
        (torch.zeros(2, 8, 8), r"shape \(2, 8, 8\)"),
        (torch.zeros(1, 1, 1, 8, 8), r"shape \(1, 1, 1, 8, 8\)"),
        (torch.zeros(1, 0, 8), "not empty"),
        (torch.full((1, 8, 8), torch.nan), "holds NaN"),
        (np.full((1, 8, 8), np.nan), "holds NaN"),
    ],
)
def test_bad_data(data: torch.Tensor | np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ProbabilityToInstances()(data)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_distance": 0}, "min_distance is 0, expected a whole number of pixels, at least 1"),
        ({"min_distance": 1.5}, "min_distance is 1.5"),
        ({"min_distance": True}, "min_distance is True"),
        ({"min_size": -1}, "min_size is -1, expected a whole number of pixels, at least 0"),
        ({"min_size": 0.5}, "min_size is 0.5"),
        ({"sigma": -0.1}, "sigma is -0.1"),
        ({"sigma": float("inf")}, "sigma is inf"),
        ({"sigma": float("nan")}, "sigma is nan"),
    ],
)
def test_bad_options(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ProbabilityToInstances(**options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message):
        ProbabilityToInstancesd("pred", **options)  # type: ignore[arg-type]
