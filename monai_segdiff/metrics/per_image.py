# SPDX-License-Identifier: Apache-2.0
"""Metrics of arrays, on batches of tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

__all__ = ["compute_per_image"]


def compute_per_image(
    y_pred: torch.Tensor, y: torch.Tensor, compute: Callable[[np.ndarray, np.ndarray], Any]
) -> torch.Tensor:
    """Compute something for each image and channel of two batches.

    Args:
        y_pred: [B, C, H, W] or [B, C, H, W, D].
        y: tensor of the same shape.
        compute: maps the two arrays ``[*spatial]`` of one channel to a number or to an array of one shape.

    Returns:
        float64 [B, C] or [B, C, ...], on the device of ``y_pred``.

    Raises:
        ValueError: the shapes differ, are not those of 2-D or 3-D images, or hold nothing.
    """
    for name, value in (("y_pred", y_pred), ("y", y)):
        if value.ndim not in (4, 5) or not value.numel():
            found = tuple(value.shape)
            raise ValueError(f"{name} has shape {found}, expected [B, C, H, W] or [B, C, H, W, D], not empty.")
    if y_pred.shape != y.shape:
        raise ValueError(f"y_pred has shape {tuple(y_pred.shape)} and y {tuple(y.shape)}, expected equal shapes.")
    # NumPy does not know bfloat16.
    arrays = [(value.float() if value.dtype == torch.bfloat16 else value).cpu().numpy() for value in (y_pred, y)]
    results = [[compute(*pair) for pair in zip(*images, strict=True)] for images in zip(*arrays, strict=True)]
    return torch.from_numpy(np.array(results, dtype=np.float64)).to(y_pred.device)
