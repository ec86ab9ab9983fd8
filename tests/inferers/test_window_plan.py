# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from itertools import pairwise, product
from typing import Any

import pytest
import torch
from monai.inferers import SlidingWindowInferer

from monai_segdiff import WindowPlan


def of_the_window(window: torch.Tensor) -> torch.Tensor:
    """Differs between windows that see the same pixel: the mean, and the place inside the window."""
    ramp = torch.linspace(0, 1, window[0, 0].numel()).reshape(window.shape[2:])
    return window.sin() + window.mean(dim=tuple(range(1, window.ndim)), keepdim=True) + ramp


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def blended(plan: WindowPlan, image: torch.Tensor) -> torch.Tensor:
    padded = plan.pad(image)
    total = torch.zeros_like(padded)
    for window in range(len(plan.windows)):
        plan.add(total, window, of_the_window(plan.cut(padded, window)))
    return plan.crop(total / plan.total_weight())


CASES: list[tuple[tuple[int, ...], Any, Any]] = [
    ((40, 28), 16, 0.25),
    ((40, 28), 16, 0.0),
    ((40, 28), 16, 0.6),
    ((33, 17), 16, 0.5),
    ((33, 17), 8, 0.99),
    ((9, 50), 16, 0.25),
    ((9, 5), 16, 0.25),
    ((16, 16), 16, 0.25),
    ((1, 1), 4, 0.25),
    ((40, 28), (8, 16), (0.5, 0.0)),
    ((40, 28), (8, -1), (0.5, 0.25)),
    ((40, 28), (64, 8), 0.3),
    ((7, 11), (-1, -1), 0.25),
    ((12, 9, 10), 8, 0.25),
    ((12, 9, 10), 8, 0.5),
    ((5, 9, 20), (8, 4, 16), (0.0, 0.5, 0.25)),
    ((3, 4, 5), 8, 0.25),
]


@pytest.mark.parametrize(("size", "roi", "overlap"), CASES)
@pytest.mark.parametrize(("mode", "sigma_scale"), [("gaussian", 0.125), ("gaussian", 0.3), ("constant", 0.125)])
def test_blends_as_monai_does(
    size: tuple[int, ...], roi: int | tuple[int, ...], overlap: float, mode: str, sigma_scale: float
) -> None:
    image = random(1, 2, *size)
    for padding_mode in ("replicate", "constant"):
        plan = WindowPlan(size, roi, overlap, mode, sigma_scale, padding_mode=padding_mode)
        reference = SlidingWindowInferer(roi, 1, overlap, mode, sigma_scale, padding_mode=padding_mode)
        torch.testing.assert_close(blended(plan, image), reference(image, of_the_window), atol=2e-6, rtol=0)


def test_reflecting_padding() -> None:
    image = random(2, 1, 13, 30)
    reference = SlidingWindowInferer(16, 2, padding_mode="reflect", mode="gaussian")
    plan = WindowPlan((13, 30), 16, padding_mode="reflect")
    torch.testing.assert_close(blended(plan, image), reference(image, of_the_window), atol=2e-6, rtol=0)


@pytest.mark.parametrize("mode", ["gaussian", "constant"])
@pytest.mark.parametrize(("size", "roi", "overlap"), CASES)
def test_every_pixel_is_covered(size: tuple[int, ...], roi: int | tuple[int, ...], overlap: float, mode: str) -> None:
    plan = WindowPlan(size, roi, overlap, mode)
    total = plan.total_weight()
    assert total.shape == (1, 1, *plan.padded_size)
    assert (total > 0).all()
    assert {tuple(axis.stop - axis.start for axis in window) for window in plan.windows} == {plan.roi_size}
    counts = torch.zeros(plan.padded_size)
    for window in plan.windows:
        counts[window] += 1
    assert (counts > 0).all()
    if mode == "constant":
        assert torch.equal(total[0, 0], counts)


@pytest.mark.parametrize("padding_mode", ["replicate", "constant"])
@pytest.mark.parametrize(("size", "roi", "overlap"), CASES)
def test_cropping_undoes_padding(
    size: tuple[int, ...], roi: int | tuple[int, ...], overlap: float, padding_mode: str
) -> None:
    image = random(2, 3, *size)
    plan = WindowPlan(size, roi, overlap, divisor=4, padding_mode=padding_mode)
    padded = plan.pad(image)
    assert padded.shape == (2, 3, *plan.padded_size)
    assert torch.equal(plan.crop(padded), image)


def test_padding_is_even_and_replicates_the_edge() -> None:
    padded = WindowPlan((1, 2), (4, 5)).pad(torch.tensor([[[[1.0, 2.0]]]]))
    # One column and one row more after the image than before it.
    assert padded.tolist() == [[[[1, 1, 2, 2, 2]] * 4]]
    marked = WindowPlan((1, 2), (4, 5), padding_mode="constant").pad(torch.tensor([[[[1.0, 2.0]]]]))
    assert marked[0, 0].nonzero().tolist() == [[1, 1], [1, 2]]


@pytest.mark.parametrize(
    ("size", "roi", "divisor", "expected"),
    [
        ((13, 22), None, 1, (13, 22)),
        ((13, 22), None, 4, (16, 24)),
        ((16, 24), None, 8, (16, 24)),
        ((13, 22), 8, 8, (8, 8)),
        ((13, 22), 9, 8, (16, 16)),
        ((13, 22), 0, 8, (16, 24)),
        ((13, 22), (-1, 5), 4, (16, 8)),
        ((13, 22), (5, None), 4, (8, 24)),
        ((13, 22, 5), (1, 2, 3), 2, (2, 2, 4)),
        ((13, 22, 5), None, 64, (64, 64, 64)),
    ],
)
def test_windows_are_multiples_of_the_divisor(
    size: tuple[int, ...], roi: Any, divisor: int, expected: tuple[int, ...]
) -> None:
    plan = WindowPlan(size, roi, divisor=divisor)
    assert plan.roi_size == expected
    assert plan.padded_size == tuple(max(pair) for pair in zip(size, expected, strict=True))


@pytest.mark.parametrize(
    ("size", "roi", "overlap", "expected"),
    [
        (10, 4, 0.0, [0, 4, 6]),
        (8, 4, 0.0, [0, 4]),
        (10, 4, 0.5, [0, 2, 4, 6]),
        (10, 4, 0.25, [0, 3, 6]),
        (6, 4, 0.99, [0, 1, 2]),
        (3, 4, 0.25, [0]),
    ],
)
def test_origins(size: int, roi: int, overlap: float, expected: list[int]) -> None:
    plan = WindowPlan((size, size), (roi, roi), overlap)
    # Row by row, and no window twice.
    assert [plan.origin(window) for window in range(len(plan.windows))] == list(product(expected, expected))
    narrow = WindowPlan((size, 5), (roi, 5), (overlap, 0.0))
    assert [narrow.origin(window) for window in range(len(narrow.windows))] == [(start, 0) for start in expected]
    image = torch.arange(float(size * size)).reshape(1, 1, size, size)
    for window, (row, column) in enumerate(product(expected, expected)):
        padded = plan.pad(image)
        assert torch.equal(plan.cut(padded, window), padded[..., row : row + roi, column : column + roi])


def test_neighbours_overlap_by_the_share_of_their_axis() -> None:
    plan = WindowPlan((64, 64), (16, 8), (0.25, 0.5))
    rows, columns = ({window[axis].start for window in plan.windows} for axis in range(2))
    assert {after - before for before, after in pairwise(sorted(rows))} == {12}
    assert {after - before for before, after in pairwise(sorted(columns))} == {4}


def test_one_window_passes_its_values_through() -> None:
    # Not multiplied by a Gaussian and divided again: the same bits.
    plan, values = WindowPlan((16, 12)), random(1, 1, 16, 12)
    total = torch.zeros(1, 1, 16, 12)
    plan.add(total, 0, values)
    assert torch.equal(total / plan.total_weight(), values)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"overlap": 1.0}, r"overlap must lie in \[0, 1\), found 1.0"),
        ({"overlap": -0.1}, r"overlap must lie in \[0, 1\), found -0.1"),
        ({"overlap": (0.5, 1.5)}, r"found \(0.5, 1.5\)"),
        ({"overlap": float("nan")}, "found nan"),
        ({"overlap": (0.5, 0.5, 0.5)}, "length 2"),
        ({"roi_size": (8, 8, 8)}, "length 2"),
        ({"mode": "gausian"}, "gausian"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WindowPlan((20, 20), **({"roi_size": 8} | arguments))
