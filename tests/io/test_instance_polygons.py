# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.path import Path
from scipy import ndimage

from monai_segdiff.io.instance_polygons import instance_polygons


def area(ring: list[list[int]]) -> float:
    return sum(a[0] * b[1] - b[0] * a[1] for a, b in zip(ring[:-1], ring[1:], strict=True)) / 2


def lattice_points(ring: list[list[int]]) -> list[tuple[int, int]]:
    """Every whole-numbered point on the ring, the first one once."""
    points = []
    for (x0, y0), (x1, y1) in zip(ring[:-1], ring[1:], strict=True):
        length = abs(x1 - x0) + abs(y1 - y0)
        points += [(x0 + (x1 - x0) * i // length, y0 + (y1 - y0) * i // length) for i in range(length)]
    return points


def pixels(rings: list[list[list[int]]], shape: tuple[int, int]) -> np.ndarray:
    """By point in polygon at the centres of the pixels, ring by ring."""
    rows, columns = np.indices(shape)
    centres = np.stack([columns.ravel() + 0.5, rows.ravel() + 0.5], axis=1)
    inside = [Path(ring).contains_points(centres).reshape(shape) for ring in rings]
    assert not any((hole & ~inside[0]).any() for hole in inside[1:])
    return inside[0] & ~np.any(inside[1:], axis=0) if len(inside) > 1 else inside[0]


def check(instances: np.ndarray) -> None:
    polygons = instance_polygons(instances)
    assert list(polygons) == [number for number in np.unique(instances) if number]
    for number, parts in polygons.items():
        drawn = np.zeros(instances.shape, dtype=int)
        for shell, *holes in parts:
            region = pixels([shell, *holes], instances.shape)
            assert ndimage.label(region)[1] == 1
            drawn += region
            assert area(shell) > 0
            assert all(area(hole) < 0 for hole in holes)
            assert area(shell) + sum(area(hole) for hole in holes) == region.sum()
            for ring in (shell, *holes):
                assert ring[0] == ring[-1]
                assert all(type(value) is int for point in ring for value in point)
                steps = np.diff(ring, axis=0)
                assert ((steps == 0).sum(axis=1) == 1).all()  # along rows or columns
                assert (steps * np.roll(steps, 1, axis=0) == 0).all()  # a turn at every vertex
                visited = lattice_points(ring)
                assert len(set(visited)) == len(visited)  # no ring touches itself
        assert np.array_equal(drawn, instances == number)


@pytest.mark.parametrize("seed", range(12))
def test_random_maps_against_point_in_polygon(seed: int) -> None:
    generator = np.random.default_rng(seed)
    instances = generator.integers(0, (2, 3, 6)[seed % 3], (11, 15))
    check(instances * generator.integers(1, 4))


@pytest.mark.parametrize("seed", range(4))
def test_smooth_random_maps_against_point_in_polygon(seed: int) -> None:
    generator = np.random.default_rng(seed)
    check((ndimage.gaussian_filter(generator.normal(size=(40, 31)), 1.5) * 20).round().astype(int).clip(0))


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ("1", [[[[0, 0], [1, 0], [1, 1], [0, 1]]]]),
        ("00 01", [[[[1, 1], [2, 1], [2, 2], [1, 2]]]]),
        ("11 11", [[[[0, 0], [2, 0], [2, 2], [0, 2]]]]),
        # Parts that touch at a corner are polygons of their own.
        ("10 01", [[[[0, 0], [1, 0], [1, 1], [0, 1]]], [[[1, 1], [2, 1], [2, 2], [1, 2]]]]),
        ("101", [[[[0, 0], [1, 0], [1, 1], [0, 1]]], [[[2, 0], [3, 0], [3, 1], [2, 1]]]]),
        ("111 101 111", [[[[0, 0], [3, 0], [3, 3], [0, 3]], [[1, 1], [1, 2], [2, 2], [2, 1]]]]),
        # A hole that meets the outside at a corner is still a hole.
        ("111 101 110", [[[[0, 0], [3, 0], [3, 2], [2, 2], [2, 3], [0, 3]], [[1, 1], [1, 2], [2, 2], [2, 1]]]]),
        # So are two holes that meet at a corner.
        (
            "1111 1011 1101 1111",
            [
                [
                    [[0, 0], [4, 0], [4, 4], [0, 4]],
                    [[1, 1], [1, 2], [2, 2], [2, 1]],
                    [[2, 2], [2, 3], [3, 3], [3, 2]],
                ]
            ],
        ),
        # A part within the hole of another.
        (
            "11111 10001 10101 10001 11111",
            [
                [[[0, 0], [5, 0], [5, 5], [0, 5]], [[1, 1], [1, 4], [4, 4], [4, 1]]],
                [[[2, 2], [3, 2], [3, 3], [2, 3]]],
            ],
        ),
    ],
)
def test_known_outlines(rows: str, expected: list[list[list[list[int]]]]) -> None:
    instances = np.array([[int(value) for value in row] for row in rows.split()])
    check(instances)

    def from_first_corner(ring: list[list[int]]) -> list[list[int]]:
        start = ring.index(min(ring))
        return ring[start:] + ring[:start]

    found = instance_polygons(instances)[1]
    assert [[from_first_corner(ring[:-1]) for ring in polygon] for polygon in found] == expected


def test_instance_in_the_hole_of_another() -> None:
    instances = np.full((5, 5), 7)
    instances[1:4, 1:4] = 2
    instances[2, 2] = 0
    check(instances)
    assert {number: [len(part) for part in parts] for number, parts in instance_polygons(instances).items()} == {
        2: [2],
        7: [2],
    }


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int32, np.int64, np.uint64, torch.int32, torch.uint8])
def test_types(kind: type | torch.dtype) -> None:
    values = [[0, 200], [200, 9]]
    map_ = torch.tensor(values, dtype=kind) if isinstance(kind, torch.dtype) else np.array(values, dtype=kind)
    assert instance_polygons(map_) == instance_polygons(np.array(values))


def test_no_instance() -> None:
    assert instance_polygons(np.zeros((3, 4), dtype=np.int32)) == {}


def test_numbers_far_above_the_count() -> None:
    assert list(instance_polygons(np.array([[2**40, 0, 3]]))) == [3, 2**40]


@pytest.mark.parametrize(
    ("instances", "message"),
    [
        (np.zeros((1, 4, 4), dtype=int), r"instances has shape \(1, 4, 4\), expected \[H, W\]"),
        (np.zeros((0, 4), dtype=int), r"instances has shape \(0, 4\), expected \[H, W\], not empty"),
        (np.zeros((4, 4)), "instances is float64 from 0.0 to 0.0, expected whole numbers"),
        (np.ones((4, 4), dtype=bool), "instances is bool"),
        (np.array([[0, -1]]), "from -1 to 0, expected whole numbers from 0 on"),
    ],
)
def test_errors(instances: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        instance_polygons(instances)
