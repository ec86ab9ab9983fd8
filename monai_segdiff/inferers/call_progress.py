# SPDX-License-Identifier: Apache-2.0
"""How far sampling has come, for a bar or for whoever asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from tqdm import tqdm

__all__ = ["Progress", "counted_calls"]

Progress: TypeAlias = bool | Callable[[int, int], object]


@contextmanager
def counted_calls(progress: Progress, total: int) -> Iterator[Callable[[int], object]]:
    """Give a function to call with the number of calls just done.

    Args:
        progress: True shows a bar; a function is called with the calls done and ``total``, once before the first. It
            may raise, to end what is going on.
        total: calls in all, at most: sampling may end early.

    Example:
        >>> with counted_calls(print, 3) as count:
        ...     count(1)
        ...     count(2)
        0 3
        1 3
        3 3
    """
    if not callable(progress):
        with tqdm(total=total, disable=not progress) as bar:
            yield bar.update
        return
    report, done = progress, 0

    def count(calls: int) -> None:
        nonlocal done
        done += calls
        report(done, total)

    count(0)
    yield count
