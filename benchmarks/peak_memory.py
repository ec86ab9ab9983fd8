# SPDX-License-Identifier: Apache-2.0
"""Memory that a computation takes at its peak."""

from __future__ import annotations

import gc
import resource
import sys
from pathlib import Path

import torch

__all__ = ["PeakMemory"]

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
KIB = 1024


class PeakMemory:
    """Most memory held inside this context, beyond what was held at its start.

    On a GPU the bytes of PyTorch's allocator, without what it keeps in reserve. On a CPU the resident memory of the
    process, which includes the scratch memory of the kernels; memory that the process has freed earlier but not given
    back is used again unseen, so that only the first such context of a fresh process tells the truth. Where the system
    does not let the peak be reset (it is not Linux), it is compared with the peak before.

    Args:
        device: whose memory.

    Attributes:
        before: bytes held at the start.
        peak: most bytes beyond those, once the context has ended.

    Example:
        >>> with PeakMemory(torch.device("cpu")) as memory:  # doctest: +SKIP
        ...     run()
        >>> memory.peak  # doctest: +SKIP
        104857600
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.before = 0
        self.peak = 0

    def __enter__(self) -> PeakMemory:
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            self.before = torch.cuda.memory_allocated(self.device)
        else:
            self.before = _status("VmRSS") if _reset_peak() else _peak_so_far()
        return self

    def __exit__(self, *_: object) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            highest = torch.cuda.max_memory_allocated(self.device)
        else:
            highest = _peak_so_far()
        self.peak = max(highest - self.before, 0)


def _reset_peak() -> bool:
    """Let the peak of the process start anew, if the system can; see proc(5)."""
    try:
        RESET.write_text("5")
        return True
    except OSError:
        return False


def _status(name: str) -> int:
    lines = (line.split() for line in STATUS.read_text(encoding="utf-8").splitlines())
    return next(int(words[1]) * KIB for words in lines if words[0] == f"{name}:")


def _peak_so_far() -> int:
    # Not getrusage on Linux: its peak outlives exec, so that a new process starts with that of its parent.
    if STATUS.exists():
        return _status("VmHWM")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else KIB)
