# SPDX-License-Identifier: Apache-2.0
"""Between the calls of a network: a bar, a caller's function, a limit of time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

from ..exceptions import PredictionTimeoutError
from ..inferers.call_progress import Progress

__all__ = ["limited_calls"]


@contextmanager
def limited_calls(
    name: str, begun: float, timeout_s: float | None, progress: Progress
) -> Iterator[Callable[[int, int], None]]:
    """Give a function to be called with the calls of the network done and those in all.

    Args:
        name: what the image is called in messages.
        begun: time by ``time.monotonic`` from which on is counted.
        timeout_s: seconds after which the function raises; None: never.
        progress: True shows a bar; a function is called in turn.

    Raises:
        PredictionTimeoutError: from the function, after that time.
    """
    with tqdm(desc="segmenting", unit="call", disable=progress is not True) as bar:

        def report(done: int, total: int) -> None:
            if timeout_s is not None and time.monotonic() > begun + timeout_s:
                raise PredictionTimeoutError(
                    f"{name}: not done after {timeout_s} s; {done} of {total} calls of the network were."
                )
            bar.total = total
            bar.update(done - bar.n)
            if callable(progress):
                progress(done, total)

        yield report
