# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monai_segdiff.exceptions import SeriesError
from monai_segdiff.io.slice_header import SliceHeader
from monai_segdiff.io.slice_stack import stack_slices

FOLDER = Path("series")
STEP = np.array([0.0, 0.0, 3.0])


def slices(*positions: Any, thickness: float = 9.0) -> list[SliceHeader]:
    """Axial slices at multiples of 3 mm; their spacing is 0.5 mm between rows, 2 mm between columns."""
    header = SliceHeader(
        path=FOLDER / "0",
        instance_uid="1.2",
        modality="MR",
        frame_of_reference="1.3",
        shape=(4, 5),
        spacing=np.array([0.5, 2.0]),
        row=np.array([1.0, 0, 0]),
        column=np.array([0, 1.0, 0]),
        position=np.zeros(3),
        thickness=thickness,
    )
    return [
        dataclasses.replace(header, path=FOLDER / f"{i}", position=np.broadcast_to(position, 3) * STEP + [10, 20, 30])
        for i, position in enumerate(positions)
    ]


def test_order_and_affine() -> None:
    found, affine = stack_slices(slices(2, 0, 3, 1), FOLDER)
    assert [header.path.name for header in found] == ["1", "3", "0", "2"]
    expected = [[-2, 0, 0, -10], [0, -0.5, 0, -20], [0, 0, 3, 30], [0, 0, 0, 1]]
    np.testing.assert_array_equal(affine, expected)


def test_single_slice_is_as_thick_as_it_says() -> None:
    _, affine = stack_slices(slices(0, thickness=7.0), FOLDER)
    np.testing.assert_array_equal(affine[:3, 2], [0, 0, 7])
    with pytest.raises(SeriesError, match="the only slice"):
        stack_slices(slices(0, thickness=0.0), FOLDER)


@pytest.mark.parametrize("off", [0.04, -0.04])
def test_small_irregularity_passes(off: float) -> None:
    _, affine = stack_slices(slices(0, 1, 2 + off, 3 + off, 4), FOLDER)
    np.testing.assert_array_equal(affine[:3, 2], STEP)


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        ((0, 1, 2.06, 3.06), "1 and 2 are 3.18 mm apart, most slices 3 mm"),
        ((0, 1, 2, 2.9), "2 and 3 are 2.7 mm apart"),
        ((0, 2, 3), "0 and 1 are 6 mm apart, most slices 3 mm"),
        ((0, 1, 3), "1 and 2 are 6 mm apart, most slices 3 mm"),
        ((3, 0, 1), "2 and 0 are 6 mm apart, most slices 3 mm"),
        ((0, 1, 1, 2), "1 and 2 lie at one position"),
        ((0, 0), "0 and 1 lie at one position"),
        # Each distance is within the tolerance; together they are not.
        ((*range(10), *(9 + 1.04 * np.arange(1, 10))), r"slice 10 of 19 lies 0.17\d* voxels off"),
    ],
)
def test_irregular_positions(positions: tuple[float, ...], message: str) -> None:
    with pytest.raises(SeriesError, match=message) as caught:
        stack_slices(slices(*positions), FOLDER)
    assert str(caught.value).startswith("series: ")


@pytest.mark.parametrize(
    ("number", "shift", "refused"),
    [
        # 1e-3 radians are 0.003 mm from one slice to the next, and 5 % of the smaller side of a pixel are 0.025 mm.
        (3, 0.0025, False),
        (20, 0.0025, False),
        (3, 0.0035, False),
        (8, 0.0035, False),
        (9, 0.0035, True),
        (2, 0.024, False),
        (2, 0.026, True),
        (3, -1.5, True),
    ],
)
@pytest.mark.parametrize("axis", [0, 1])
def test_shear(axis: int, number: int, shift: float, refused: bool) -> None:
    headers = slices(*range(number))
    move = shift * np.eye(3)[axis]
    sheared = [dataclasses.replace(header, position=header.position + k * move) for k, header in enumerate(headers)]
    if refused:
        with pytest.raises(SeriesError, match="a tilted gantry"):
            stack_slices(sheared, FOLDER)
    else:
        _, affine = stack_slices(sheared, FOLDER)
        np.testing.assert_allclose(affine[:3, 2], (STEP + move) * [-1, -1, 1])


@pytest.mark.parametrize(
    ("name", "value", "refused"),
    [
        ("shape", (5, 4), True),
        ("modality", "CT", True),
        ("frame_of_reference", "", True),
        ("spacing", np.array([0.5, 2.0 + 1e-5]), False),
        ("spacing", np.array([0.5, 2.01]), True),
        ("spacing", np.array([2.0, 0.5]), True),
        ("row", np.array([1.0, 1e-5, 0]), False),
        ("row", np.array([1.0, 1e-2, 0]), True),
        ("column", np.array([0, -1.0, 0]), True),
    ],
)
def test_slices_that_differ(name: str, value: Any, refused: bool) -> None:
    headers = slices(0, 1, 2)
    headers[1] = dataclasses.replace(headers[1], **{name: value})
    if refused:
        with pytest.raises(SeriesError, match=f"series: the slices of one series differ: 0 has the {name}.* 1 has"):
            stack_slices(headers, FOLDER)
    else:
        stack_slices(headers, FOLDER)
