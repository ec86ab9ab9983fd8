# SPDX-License-Identifier: Apache-2.0
"""Check of a device that a user has named."""

from __future__ import annotations

import torch

__all__ = ["usable_device"]


def usable_device(device: str | torch.device) -> torch.device:
    """Refuse a device that this machine does not have.

    Args:
        device: as for ``torch.device``; ``"auto"``: the first GPU, or else the CPU.

    Raises:
        ValueError: there is no such device, or this PyTorch cannot use it.

    Example:
        >>> usable_device("cpu")
        device(type='cpu')
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
        if found.type == "meta":
            raise RuntimeError("it computes nothing")
        torch.empty(1, device=found)
    except (AssertionError, ImportError, NotImplementedError, RuntimeError, TypeError) as error:
        line, _, _ = str(error).partition("\n")
        raise ValueError(
            f"device is {device!r}, which cannot be used here ({line}); expected 'cpu' or 'auto'."
        ) from error
    return found
