# SPDX-License-Identifier: Apache-2.0
"""Random streams that depend on a seed and a name alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

__all__ = ["random_stream"]


def random_stream(seed: int, key: Sequence[int]) -> torch.Generator:
    """Return a generator of its own for every seed and key, on the CPU, so that all devices see the same numbers.

    Args:
        seed: start of all streams, below 2 ** 32. Words of larger ones may meet those of the key.
        key: what makes a stream its own, e.g. a generation and its place; of the same length for all streams.

    Example:
        >>> key = (3, 0, 12)
        >>> torch.equal(*(torch.rand(9, generator=random_stream(0, key)) for _ in range(2)))
        True
    """
    entropy = np.random.SeedSequence([seed, *key]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(entropy) >> 1)
