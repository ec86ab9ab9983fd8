# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from monai_segdiff.inferers.random_stream import random_stream


@pytest.mark.parametrize(("seed", "key"), [(0, (0,)), (5, (3, 0, 12)), (2**31, (1, 7, 5, 9)), (2**40, ())])
def test_is_seeded_by_a_hash_of_seed_and_key(seed: int, key: tuple[int, ...]) -> None:
    state = np.random.SeedSequence([seed, *key]).generate_state(1, np.uint64)[0]
    stream = random_stream(seed, key)
    assert stream.initial_seed() == int(state) // 2
    assert stream.device == torch.device("cpu")
    assert torch.equal(torch.rand(9, generator=stream), torch.rand(9, generator=random_stream(seed, list(key))))


def test_no_two_streams_begin_alike() -> None:
    keys = list(itertools.product(range(4), (0, 12, 24, 36), (0, 12, 24, 36)))
    streams = [random_stream(seed, key) for seed in (0, 1, 2, 2**31) for key in keys]
    assert len({tuple(torch.rand(3, generator=stream).tolist()) for stream in streams}) == 4 * len(keys)


def test_global_random_state_is_left_alone() -> None:
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    torch.rand(5, generator=random_stream(1, (2, 3)))
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
