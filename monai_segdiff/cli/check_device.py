# SPDX-License-Identifier: Apache-2.0
"""Check of a device that a user has named."""

from __future__ import annotations

import re

from ..io.usable_device import usable_device

__all__ = ["check_device"]

# PyTorch knows more, some of which hold no values ("meta") or want modules of their own.
DEVICES = re.compile(r"auto|cpu|cuda(:\d+)?|mps")


def check_device(name: str) -> str:
    """Refuse a device that the commands do not know, or that this machine does not have.

    Args:
        name: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``, or ``"auto"``.

    Returns:
        The name; for ``"auto"`` that of the first GPU, or else of the CPU.

    Raises:
        ValueError: another name, or PyTorch cannot use this device here.

    Example:
        >>> check_device("cpu")
        'cpu'
    """
    if not DEVICES.fullmatch(name):
        raise ValueError(f"--device is {name!r}; expected auto, cpu, cuda, cuda:N or mps.")
    return str(usable_device(name))
