# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from monai_segdiff import SegDiffUNet
from monai_segdiff.inferers.memory_probe import PeakMemory, rows_within

sys.path.insert(0, str(Path(__file__).parent))
from inferer_stand_ins import image_of, inferer, tiny_network  # noqa: E402

UNIT = 4 * 1000


def new() -> torch.Tensor:
    """One unit of memory."""
    return torch.zeros(1000)


def sliced() -> torch.Tensor:
    return new()[:10]


def freed_one_by_one() -> None:
    for _ in range(10):
        new()


def freed_late() -> None:
    kept = [new() for _ in range(7)]
    kept.clear()
    new()


def written_in_place() -> torch.Tensor:
    total = new()
    for _ in range(10):
        total.add_(1).mul_(2)
        total[:500] = 3
        torch.sin(total, out=total)
    return total


def viewed() -> list[torch.Tensor]:
    base = new()
    views = [base.view(10, 100), base[::2], base.reshape(100, 10).T, base.expand(50, 1000), base.detach()]
    return [*views, *base.chunk(4), *base.view(10, 10, 10).unbind()]


@pytest.mark.parametrize(
    ("work", "units"),
    [
        (lambda: None, 0),
        (new, 1),
        (lambda: new() + 1, 2),
        (lambda: new() + 1 + 1 + 1, 2),
        (lambda: [new() for _ in range(5)], 5),
        (lambda: torch.cat([new(), new()]), 4),
        (lambda: torch.stack([new()] * 3), 4),
        (lambda: new().view(10, 100).T.reshape(1000), 2),
        (lambda: new().view(10, 100).reshape(1000), 1),
        (lambda: new().bool(), 1.25),
        (lambda: new().double(), 3),
        (lambda: new().float().contiguous(), 1),
        (lambda: new().max(), 1.001),
        (lambda: new().sort(), 4),  # values, and indices of 8 bytes
        (lambda: sliced() + 0, 1.01),  # a slice holds all of what it was cut from
        (freed_one_by_one, 1),
        (freed_late, 7),
        (written_in_place, 1),
        (viewed, 1),
    ],
)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_closed_forms(work: Callable[[], object], units: float, mode: Callable[[], Any]) -> None:
    with mode(), PeakMemory() as memory:
        work()
    assert memory.peak == round(UNIT * units)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_a_chain_of_convolutions(mode: Callable[[], Any], inplace: bool, spatial_dims: int) -> None:
    convolution = (nn.Conv2d, nn.Conv3d)[spatial_dims - 2]
    chain = nn.Sequential(
        convolution(2, 4, 3, padding=1), nn.ReLU(inplace), convolution(4, 3, 3, padding=1), nn.ReLU(inplace)
    )
    image = torch.zeros(2, 2, *[8] * spatial_dims)
    with mode(), PeakMemory() as memory:
        chain(image)
    # The widest two neighbours; neither the weights nor the image, which were there before.
    pixels = 4 * 2 * 8**spatial_dims
    assert memory.peak == pixels * (4 + (3 if inplace else 4))


def test_what_autograd_keeps_is_counted() -> None:
    x = torch.zeros(1000, requires_grad=True)
    with PeakMemory() as memory:
        result = x.exp().exp().exp()
    assert memory.peak == 3 * UNIT
    with torch.no_grad(), PeakMemory() as memory:
        result = x.exp().exp().exp()
    assert memory.peak == 2 * UNIT
    del result


def test_results_inside_of_composite_operations_count() -> None:
    # In inference mode these reach the mode whole.
    x = torch.zeros(1, 2, 50, 4)
    peaks = []
    for mode in (torch.no_grad, torch.inference_mode):
        with mode(), PeakMemory() as memory, sdpa_kernel(SDPBackend.MATH):
            F.scaled_dot_product_attention(x, x, x)
        peaks.append(memory.peak)
    assert peaks[0] == peaks[1] > 4 * 2 * 50 * 50


def test_computes_what_is_computed_without() -> None:
    network, image = tiny_network(), image_of(2, 3, 16, 16)
    x, timestep = image_of(2, 1, 16, 16), torch.tensor([3])
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            expected = network(x, timestep, context=image)
            with PeakMemory():
                found = network(x, timestep, context=image)
        assert torch.equal(found, expected)


def test_contexts_nest_and_do_not_see_other_threads() -> None:
    def elsewhere() -> None:
        torch.zeros(10**6)

    with PeakMemory() as outer:
        first = new()
        with PeakMemory() as inner:
            second = first + 1
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
    assert inner.peak == UNIT
    assert outer.peak == 2 * UNIT
    # What is freed later is no matter of the context any more.
    del first, second
    assert outer.peak == 2 * UNIT


def linear(fixed: int, row: int) -> Callable[[int], object]:
    return lambda rows: [torch.zeros(fixed, dtype=torch.uint8), torch.zeros(rows, row, dtype=torch.uint8)]


@pytest.mark.parametrize(
    ("limit", "fixed", "row", "expected"),
    [
        (100, 0, 100, 1),
        (199, 0, 100, 1),
        (200, 0, 100, 2),
        (799, 0, 100, 7),
        (6399, 0, 100, 63),
        (6400, 0, 100, 64),
        (10**12, 0, 100, 64),
        (1100, 1000, 100, 1),
        (2199, 1000, 100, 1),  # ten would do, but the probe cannot know without risk
        (2200, 1000, 100, 12),
        (2299, 1000, 100, 12),
        (1700, 800, 0, 64),  # rows that cost nothing
    ],
)
def test_rows_within_a_limit(limit: int, fixed: int, row: int, expected: int) -> None:
    assert rows_within(limit, linear(fixed, row)) == expected


@pytest.mark.parametrize("limit", [1100, 1500, 2199, 2200, 10**6])
def test_the_probe_keeps_the_limit(limit: int) -> None:
    with PeakMemory() as memory:
        rows_within(limit, linear(300, 800))
    assert memory.peak <= limit


def test_rows_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="memory_limit=1099 bytes is too small: one row of a window takes 1100 bytes"):
        rows_within(1099, linear(1000, 100))


class Watch:
    """Notes the rows of every call of a network, and what it held, its arguments among them."""

    def __init__(self, network: SegDiffUNet) -> None:
        self.rows: list[int] = []
        self.peaks: list[int] = []
        self.memory = PeakMemory()
        network.register_forward_pre_hook(self.before, with_kwargs=True)
        network.register_forward_hook(self.after, with_kwargs=True)

    def before(self, network: nn.Module, args: tuple, kwargs: dict[str, torch.Tensor]) -> None:
        self.memory = PeakMemory()
        self.memory.__enter__()

    def after(self, network: nn.Module, args: tuple, kwargs: dict[str, torch.Tensor], output: torch.Tensor) -> None:
        self.memory.__exit__(None, None, None)
        self.rows.append(len(args[0]))
        self.peaks.append(self.memory.peak + args[0].nbytes + kwargs["image_features"].nbytes)


@pytest.mark.parametrize("window_mode", ["independent", "joint"])
@pytest.mark.parametrize("amp", [False, True])
def test_calls_of_a_network_stay_within_the_limit(window_mode: str, amp: bool) -> None:
    image, rows = image_of(1, 3, 28, 28), []
    arguments = {"roi_size": 16, "num_generations": 2, "num_inference_steps": 1, "window_mode": window_mode, "amp": amp}
    for limit in (150_000, 400_000):
        network = tiny_network()
        watch = Watch(network)
        with PeakMemory() as memory:
            inferer(memory_limit=limit, **arguments)(image, network)
        # The first calls are the probe.
        probes = 1 if 2 * watch.peaks[0] > limit else 2
        assert watch.rows[:probes] == [1, 2][:probes]
        assert set(watch.rows[probes:]) == {watch.rows[-1]}
        rows.append(watch.rows[-1])
        assert max(watch.peaks) <= limit
        # The largest batch that does.
        row = watch.peaks[probes - 1] - (watch.peaks[0] if probes == 2 else 0)
        assert watch.peaks[-1] == watch.peaks[0] + (rows[-1] - 1) * row
        assert watch.peaks[-1] + row > limit
        # Besides a call there are the features of the windows and some masks, no more.
        windows, masks = 4 * 8 * 16 * 16 * 4, 2 * rows[-1] * 16 * 16 * 4 + 8 * 28 * 28 * 4
        assert memory.peak <= limit + windows + masks
    assert rows == sorted(set(rows))
    assert rows == ([2, 6] if amp else [1, 3])


def test_the_limit_changes_no_result_but_by_the_size_of_the_batch() -> None:
    network, image = tiny_network(), image_of(1, 3, 40, 28)
    watch = Watch(network)
    found = inferer(memory_limit=500_000, roi_size=16)(image, network)
    assert torch.equal(found, inferer(max_batch=watch.rows[-1], roi_size=16)(image, network))


def test_a_limit_below_one_row_is_refused() -> None:
    with pytest.raises(ValueError, match="memory_limit=1000 bytes is too small"):
        inferer(memory_limit=1000)(image_of(1, 3, 16, 16), tiny_network())
