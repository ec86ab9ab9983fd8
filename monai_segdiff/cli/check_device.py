# SPDX-License-Identifier: Apache-2.0
"""Check of a device that a user has named."""

from __future__ import annotations

import torch

__all__ = ["check_device"]


def check_device(name: str) -> str:
    """Refuse a device that this machine does not have.

    Args:
        name: as for ``torch.device``, or ``"auto"``.

    Returns:
        The name; for ``"auto"`` that of the first GPU, or else of the CPU.

    Raises:
        ValueError: there is no such device, or this PyTorch cannot use it.

    Example:
        >>> check_device("cpu")
        'cpu'
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        line, _, _ = str(error).partition("\n")
        raise ValueError(f"--device is {name}, which cannot be used here ({line}); expected cpu or auto.") from error
    return name
