# SPDX-License-Identifier: Apache-2.0
"""Saving of checkpoints that are either whole or not there."""

from __future__ import annotations

import os
from typing import Any

import torch

from ..data.atomic_write import atomic_write

__all__ = ["atomic_save"]


def atomic_save(obj: Any, path: str | os.PathLike[str]) -> None:
    """``torch.save`` through :func:`~monai_segdiff.data.atomic_write`: killed at any moment, the old file stays."""
    with atomic_write(path) as temporary:
        torch.save(obj, temporary)
