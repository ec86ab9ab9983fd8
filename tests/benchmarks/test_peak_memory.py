# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

from benchmarks import peak_memory
from benchmarks.peak_memory import PeakMemory

MIB = 2**20


def peaks_of_a_fresh_process() -> list[int]:
    """Peaks of 200 and of 50 MiB, with the peak reset before each, and of 300 and of 50 MiB without."""
    peaks = []
    for number, size in enumerate((200, 50, 300, 50)):
        if number == 2:
            peak_memory.RESET = Path("/nowhere/clear_refs")
        with PeakMemory(torch.device("cpu")) as memory:
            torch.ones(size * MIB // 4).add_(1)
        peaks.append(memory.peak // MIB)
    return peaks


def test_peaks_of_a_fresh_process() -> None:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        large, small, larger, unseen = pool.submit(peaks_of_a_fresh_process).result()
    assert 190 <= large <= 230
    # What was freed and given back counts again.
    assert 40 <= small <= 60
    # Without a reset only what exceeds every earlier peak is seen: here 300 after 50.
    assert 240 <= larger <= 260
    assert unseen == 0
