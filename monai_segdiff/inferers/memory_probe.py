# SPDX-License-Identifier: Apache-2.0
"""How much memory a computation holds at its peak, on any device."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

__all__ = ["PeakMemory", "rows_within"]

# Beyond this a batch gains nothing, and the last one, which is filled up, wastes ever more.
MOST_ROWS = 64


class PeakMemory(TorchDispatchMode):
    """Count the bytes of the tensors that are created inside this context and still alive.

    Unlike the statistics of an allocator this works on every device and is not disturbed by other threads. Scratch
    memory that kernels take for themselves is not seen.

    Attributes:
        peak: most bytes at one time.

    Example:
        >>> with PeakMemory() as memory:
        ...     total = torch.zeros(1000) + 1
        >>> memory.peak  # the zeros and the sum in float32
        8000
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        # In inference mode composite operations arrive whole: taken apart, so that their intermediate results count.
        with self:
            parts = func.decompose(*args, **(kwargs or {}))
        if parts is not NotImplemented:
            return parts
        given = {item.untyped_storage().data_ptr() for item in tree_iter((args, kwargs)) if _is_tensor(item)}
        result = func(*args, **(kwargs or {}))
        for item in tree_iter(result):
            # Views and results written in place hold nothing new.
            if _is_tensor(item) and item.untyped_storage().data_ptr() not in given:
                self._watch(item.untyped_storage())
        return result

    def _watch(self, storage: torch.UntypedStorage) -> None:
        key = id(storage)
        if key not in self._sizes:
            self._sizes[key] = storage.nbytes()
            self.peak = max(self.peak, sum(self._sizes.values()))
            weakref.finalize(storage, self._sizes.pop, key, None)


def rows_within(memory_limit: int, call: Callable[[int], object]) -> int:
    """Find how many rows one call of a network may have.

    Args:
        memory_limit: bytes of tensors at the peak.
        call: runs the network on a number of rows.

    Returns:
        Rows, 1 to 64; memory is taken to grow linearly from what 1 and 2 rows hold. Two rows are only tried where
        twice the memory of one is within the limit, so that the probe itself keeps it.

    Raises:
        ValueError: not even one row fits.
    """
    one = _peak(call, 1)
    if one > memory_limit:
        raise ValueError(f"memory_limit={memory_limit} bytes is too small: one row of a window takes {one} bytes.")
    if 2 * one > memory_limit:
        return 1
    further = max(_peak(call, 2) - one, 1)
    return min(1 + (memory_limit - one) // further, MOST_ROWS)


def _peak(call: Callable[[int], object], rows: int) -> int:
    with PeakMemory() as memory:
        call(rows)
    return memory.peak


def _is_tensor(item: object) -> bool:
    return isinstance(item, torch.Tensor)
