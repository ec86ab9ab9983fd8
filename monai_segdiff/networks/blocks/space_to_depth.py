# SPDX-License-Identifier: Apache-2.0
"""Lossless folding of p x p (x p) pixels into channels, and back."""

from __future__ import annotations

import torch

__all__ = ["depth_to_space", "space_to_depth"]


def space_to_depth(x: torch.Tensor, patch_size: int) -> torch.Tensor:
    """Fold every ``patch_size``-wide block of pixels into channels.

    Args:
        x: ``[B, C, *spatial]`` with every spatial size a multiple of ``patch_size``.
        patch_size: edge of the block in pixels; 1 returns ``x`` itself.

    Returns:
        ``[B, C * patch_size ** n, *(spatial / patch_size)]``, n the number of spatial dimensions.
    """
    if patch_size == 1:
        return x
    batch, channels, *spatial = x.shape
    dims = len(spatial)
    split = [part for size in spatial for part in (size // patch_size, patch_size)]
    x = x.reshape(batch, channels, *split)
    coarse = [2 + 2 * i for i in range(dims)]
    fine = [3 + 2 * i for i in range(dims)]
    x = x.permute(0, 1, *fine, *coarse)
    return x.reshape(batch, channels * patch_size**dims, *(size // patch_size for size in spatial))


def depth_to_space(x: torch.Tensor, patch_size: int) -> torch.Tensor:
    """Undo :func:`space_to_depth`.

    Args:
        x: ``[B, C * patch_size ** n, *spatial]``.
        patch_size: edge of the block in pixels; 1 returns ``x`` itself.

    Returns:
        ``[B, C, *(spatial * patch_size)]``.
    """
    if patch_size == 1:
        return x
    batch, channels, *spatial = x.shape
    dims = len(spatial)
    x = x.reshape(batch, channels // patch_size**dims, *[patch_size] * dims, *spatial)
    order = [axis for i in range(dims) for axis in (2 + dims + i, 2 + i)]
    x = x.permute(0, 1, *order)
    return x.reshape(batch, channels // patch_size**dims, *(size * patch_size for size in spatial))
