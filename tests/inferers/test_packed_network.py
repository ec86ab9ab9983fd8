# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch

from monai_segdiff.inferers.memory_probe import PeakMemory
from monai_segdiff.inferers.packed_network import PackedNetwork

TIMESTEP = torch.tensor([7])


class Recorder:
    """A network of three windows: window w shows the number w, and rows are added to the features of their window."""

    def __init__(self, max_batch: int, cache: bool = True) -> None:
        self.encoded: list[int] = []
        self.calls: list[list[float]] = []
        self.counted: list[int] = []
        self.packed = PackedNetwork(
            self.encode, self.denoise, lambda w: torch.full((1, 1, 2), float(w)), max_batch, cache, self.counted.append
        )

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        assert image.shape == (1, 1, 2)
        self.encoded.append(int(image[0, 0, 0]))
        return 100 * image

    def denoise(self, x: torch.Tensor, timestep: torch.Tensor, image_features: torch.Tensor) -> torch.Tensor:
        assert timestep is TIMESTEP
        assert x.shape == image_features.shape
        self.calls.append((x + image_features)[:, 0, 0].tolist())
        return (x + image_features).double()


def rows(*values: float) -> torch.Tensor:
    return torch.tensor(values).reshape(-1, 1, 1).repeat(1, 1, 2)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8, 9])
@pytest.mark.parametrize("max_batch", [1, 2, 4, 20])
@pytest.mark.parametrize("cache", [True, False])
def test_the_network_always_sees_max_batch_rows(count: int, max_batch: int, cache: bool) -> None:
    recorder = Recorder(max_batch, cache)
    windows = [row % 3 for row in range(count)]
    found = recorder.packed(rows(*range(count)), TIMESTEP, windows)
    expected = [float(row + 100 * window) for row, window in enumerate(windows)]
    # What the call was filled up with does not come back.
    assert found.dtype == torch.float32
    assert found[:, 0, 0].tolist() == expected
    assert found.shape == (count, 1, 2)
    calls = -(-count // max_batch)
    assert [len(call) for call in recorder.calls] == [max_batch] * calls
    missing = calls * max_batch - count
    assert sum(recorder.calls, []) == expected + [expected[-1]] * missing
    # Filled rows do not count, and are not encoded; encodings count nothing, but are heard of.
    assert [rows for rows in recorder.counted if rows] == [max_batch] * (calls - 1) + [max_batch - missing]
    assert recorder.counted.count(0) == len(recorder.encoded)
    assert recorder.encoded == (sorted(set(windows)) if cache else windows)


def test_each_window_is_encoded_once_and_forgotten() -> None:
    recorder = Recorder(max_batch=2)
    for windows in ([0, 0], [0, 1], [1, 2], [2, 0]):
        recorder.packed(rows(1, 2), TIMESTEP, windows)
    assert recorder.encoded == [0, 1, 2]
    recorder.packed.forget(1)
    recorder.packed.forget(1)
    recorder.packed(rows(1, 2), TIMESTEP, [0, 2])
    assert recorder.encoded == [0, 1, 2]
    assert recorder.packed(rows(1, 2), TIMESTEP, [1, 1])[:, 0, 0].tolist() == [101, 102]
    assert recorder.encoded == [0, 1, 2, 1]


def test_forgotten_features_leave_the_memory() -> None:
    packed = PackedNetwork(lambda image: image + 1, lambda x, t, image_features: x, lambda w: torch.zeros(1, 250), 1)
    with PeakMemory() as memory:
        for window in range(20):
            packed(torch.zeros(1, 250), TIMESTEP, [window])
            packed.forget(window)
    assert memory.peak < 6 * 1000
    with PeakMemory() as memory:
        for window in range(20):
            packed(torch.zeros(1, 250), TIMESTEP, [window])
    assert memory.peak >= 20 * 1000


@pytest.mark.parametrize("count", [1, 7, 8])
def test_filling_up_needs_no_more_features_than_a_full_call(count: int) -> None:
    # A probe of the memory sees full calls only.
    packed = PackedNetwork(
        lambda image: image.repeat(1, 100), lambda x, t, image_features: x, lambda w: torch.zeros(1, 10), 8
    )
    packed.features(list(range(8)))
    x = torch.zeros(count, 1)
    with PeakMemory() as memory:
        packed(x, TIMESTEP, list(range(count)))
    assert memory.peak <= 4 * 8 * 1000 + 4 * 3 * 8


def test_windows_of_all_images_reach_the_encoder_with_the_same_strides() -> None:
    # Else compiled code is made anew for every size of an image.
    strides = set()

    def encode(image: torch.Tensor) -> torch.Tensor:
        strides.add(image.stride())
        return image

    for image in (torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 6, 9), torch.zeros(5, 1, 8, 4)[3:4]):
        window = image[:, :, :4, :4]
        PackedNetwork(encode, lambda x, t, image_features: x, lambda w, window=window: window, 1).features([0])
    assert strides == {(16, 16, 4, 1)}


def test_bits_do_not_depend_on_what_a_row_is_packed_with() -> None:
    torch.manual_seed(0)
    convolution = torch.nn.Conv2d(4, 4, 3, padding=1)
    packed = PackedNetwork(
        lambda image: image,
        lambda x, t, image_features: convolution(x + image_features),
        lambda window: torch.full((1, 4, 9, 9), float(window)),
        max_batch=4,
    )
    x = torch.randn(11, 4, 9, 9)
    with torch.inference_mode():
        together = packed(x, TIMESTEP, [row % 3 for row in range(11)])
        alone = torch.cat([packed(x[row, None], TIMESTEP, [row % 3]) for row in range(11)])
    assert torch.equal(together, alone)


@pytest.mark.parametrize("max_batch", [1, 4, 20])
def test_rows_are_the_network_for_their_windows(max_batch: int) -> None:
    recorder = Recorder(max_batch)
    of_rows = recorder.packed.rows([2, 0, 2, 1, 2])
    # What the batch was filled up with is no row.
    assert of_rows.features()[:, 0, 0].tolist() == [200, 0, 200, 100, 200]
    assert recorder.calls == []
    for _ in range(2):
        assert of_rows(rows(1, 2, 3, 4, 5), TIMESTEP)[:, 0, 0].tolist() == [201, 2, 203, 104, 205]
    # Features that were asked for are those of the prediction.
    assert recorder.encoded == [2, 0, 1]


def test_features_of_rows_need_no_more_memory_than_a_call() -> None:
    packed = PackedNetwork(lambda image: image + 1, lambda x, t, image_features: x, lambda w: torch.zeros(1, 250), 8)
    of_rows = packed.rows([0, 1, 2])
    of_rows(torch.zeros(3, 1), TIMESTEP)
    with PeakMemory() as memory:
        of_rows.features()
    assert memory.peak <= 8 * 1000
