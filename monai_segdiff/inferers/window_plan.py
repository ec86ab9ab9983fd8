# SPDX-License-Identifier: Apache-2.0
"""Where the windows of an image lie, and how they are blended."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.data.utils import compute_importance_map, dense_patch_slices
from monai.utils import ensure_tuple_rep, fall_back_tuple
from torch.nn import functional as F

__all__ = ["WindowPlan"]


class WindowPlan:
    """Windows over an image of a given size, as MONAI's ``SlidingWindowInferer`` places and weights them.

    MONAI's inferer sees one window at a time and forgets it. Here a window is visited again, for a further step or a
    further generation, so that the plan is kept apart from the loop over it.

    Args:
        image_size: spatial size of the image.
        roi_size: size of the windows, for all axes or each; ``None`` or a number below 1: the image's size.
        overlap: share by which neighbouring windows overlap, for all axes or each, in [0, 1).
        mode: ``"gaussian"`` or ``"constant"`` weights.
        sigma_scale: width of the Gaussian weights, relative to the window.
        divisor: window sizes are rounded up to multiples of this number.
        padding_mode: how an image smaller than a window is padded, evenly on both sides: as
            ``torch.nn.functional.pad``.

    Raises:
        ValueError: an overlap out of range.
    """

    def __init__(
        self,
        image_size: Sequence[int],
        roi_size: Sequence[int] | int | None = None,
        overlap: Sequence[float] | float = 0.25,
        mode: str = "gaussian",
        sigma_scale: float = 0.125,
        divisor: int = 1,
        padding_mode: str = "replicate",
    ) -> None:
        self.image_size = tuple(image_size)
        self.padding_mode = padding_mode
        wanted = fall_back_tuple(-1 if roi_size is None else roi_size, self.image_size)
        self.roi_size = tuple(-(-size // divisor) * divisor for size in wanted)
        overlaps = ensure_tuple_rep(overlap, len(self.image_size))
        if any(not 0 <= share < 1 for share in overlaps):
            raise ValueError(f"overlap must lie in [0, 1), found {overlap}.")
        self.padded_size = tuple(max(sizes) for sizes in zip(self.image_size, self.roi_size, strict=True))
        steps = [max(int(roi * (1 - share)), 1) for roi, share in zip(self.roi_size, overlaps, strict=True)]
        self.windows: list[tuple[slice, ...]] = list(dense_patch_slices(self.padded_size, self.roi_size, steps))
        self.weights = compute_importance_map(self.roi_size, mode=mode, sigma_scale=sigma_scale, dtype=torch.float32)
        if len(self.windows) == 1:
            # Nothing to blend: the values pass through unchanged, not multiplied and divided again.
            self.weights = torch.ones(self.roi_size)

    def pad(self, image: torch.Tensor) -> torch.Tensor:
        """Pad images ``[B, C, *image_size]`` to ``[B, C, *padded_size]``."""
        padding: list[int] = []
        for size, target in reversed(list(zip(self.image_size, self.padded_size, strict=True))):
            padding += [(target - size) // 2, target - size - (target - size) // 2]
        return F.pad(image, padding, mode=self.padding_mode) if any(padding) else image

    def crop(self, padded: torch.Tensor) -> torch.Tensor:
        """Undo :meth:`pad`."""
        starts = [(target - size) // 2 for size, target in zip(self.image_size, self.padded_size, strict=True)]
        inside = tuple(slice(start, start + size) for start, size in zip(starts, self.image_size, strict=True))
        index = (slice(None), slice(None), *inside)
        return padded[index]

    def origin(self, window: int) -> tuple[int, ...]:
        """Return where a window starts in the padded image."""
        return tuple(int(axis.start) for axis in self.windows[window])

    def cut(self, padded: torch.Tensor, window: int) -> torch.Tensor:
        """Return one window of a padded image, ``[B, C, *roi_size]``."""
        index = (slice(None), slice(None), *self.windows[window])
        return padded[index]

    def add(self, total: torch.Tensor, window: int, values: torch.Tensor) -> None:
        """Add the weighted ``values`` ``[B, C, *roi_size]`` of a window to ``total`` ``[B, C, *padded_size]``."""
        # Kept where the values are: a copy at every call would make the GPU wait for the CPU.
        weights = self.weights = self.weights.to(values.device)
        self.cut(total, window).add_(values * weights)

    def total_weight(self, device: torch.device | str = "cpu") -> torch.Tensor:
        """Return the weights that every pixel received, ``[1, 1, *padded_size]``, all positive."""
        total = torch.zeros(1, 1, *self.padded_size, device=device)
        for window in range(len(self.windows)):
            self.add(total, window, torch.ones(1, 1, *self.roi_size, device=device))
        return total
