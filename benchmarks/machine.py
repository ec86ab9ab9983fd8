# SPDX-License-Identifier: Apache-2.0
"""What figures were measured on."""

from __future__ import annotations

import platform
from typing import Any

import torch

__all__ = ["machine"]


def machine(device: torch.device) -> dict[str, Any]:
    """Return the kind and name of a device, the number of threads, and the version of PyTorch."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {"device": device.type, "name": name, "threads": torch.get_num_threads(), "torch": torch.__version__}
