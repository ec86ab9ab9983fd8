# SPDX-License-Identifier: Apache-2.0
"""Calls of a network in batches of one size, whatever the number of rows at hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

__all__ = ["PackedNetwork"]


class PackedNetwork:
    """A network over the windows of one image: encodes each once, and predicts for any rows of windows.

    The bits of a convolution or a normalisation may depend on the size of its batch (seen on a CPU with channels-last
    memory: 5e-5 between odd and even batches). Therefore windows are encoded one by one, and rows always go through
    the network ``max_batch`` at a time, the last batch filled up with copies of its last row.

    Args:
        encode: image features of a window, as ``SegDiffUNet.encode_image``.
        denoise: the network's output, as ``SegDiffUNet.forward``.
        windows: returns the image of a window by its number, ``[1, image_channels, *roi_size]``.
        max_batch: rows in one call of the network.
        cache: keep the features of a window after its first use, until :meth:`forget`. ``False`` encodes anew for
            every row of every call.
        on_rows: called with the number of rows after every call of the network, and with 0 after every encoding.
    """

    def __init__(
        self,
        encode: Callable[[torch.Tensor], torch.Tensor],
        denoise: Callable[..., torch.Tensor],
        windows: Callable[[int], torch.Tensor],
        max_batch: int,
        cache: bool = True,
        on_rows: Callable[[int], object] | None = None,
    ) -> None:
        self.encode = encode
        self.denoise = denoise
        self.windows = windows
        self.max_batch = max_batch
        self.cache = cache
        self.on_rows = on_rows or (lambda count: None)
        self._features: dict[int, torch.Tensor] = {}

    def __call__(self, x: torch.Tensor, timestep: torch.Tensor, windows: Sequence[int]) -> torch.Tensor:
        """Predict for rows of noisy masks.

        Args:
            x: noisy masks, ``[R, ...]``.
            timestep: the timestep of all rows, shape ``(1,)``: its embedding then does not depend on the batch either.
            windows: the window that each row belongs to.

        Returns:
            The network's output in float32, ``[R, ...]``.
        """
        outputs = []
        for start in range(0, len(windows), self.max_batch):
            rows, features = x[start : start + self.max_batch], self.features(windows[start : start + self.max_batch])
            output = self.denoise(self._fill(rows), timestep, image_features=features)
            outputs.append(output[: len(rows)].float())
            self.on_rows(len(rows))
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    def rows(self, windows: Sequence[int]) -> PackedRows:
        """Return the network for rows of these windows."""
        return PackedRows(self, windows)

    def features(self, windows: Sequence[int]) -> torch.Tensor:
        """Return the image features of some windows, filled up like their rows, ``[max_batch, ...]``."""
        parts = [self._encoded(window) for window in windows]
        # All at once: filled up afterwards they would be in memory twice.
        return torch.cat(parts + parts[-1:] * (self.max_batch - len(parts)))

    def forget(self, window: int) -> None:
        """Drop the features of a window that will not be asked for again."""
        self._features.pop(window, None)

    def _encoded(self, window: int) -> torch.Tensor:
        if window in self._features:
            return self._features[window]
        # A copy: the strides of a cut tell the size of the image, and compiled code would be made anew for each.
        features = self.encode(self.windows(window).clone(memory_format=torch.contiguous_format))
        self.on_rows(0)
        if self.cache:
            self._features[window] = features
        return features

    def _fill(self, rows: torch.Tensor) -> torch.Tensor:
        missing = self.max_batch - len(rows)
        return torch.cat([rows, rows[-1:].expand(missing, *rows.shape[1:])]) if missing else rows


class PackedRows:
    """A network for certain rows of windows, as a sampler calls it."""

    def __init__(self, packed: PackedNetwork, windows: Sequence[int]) -> None:
        self.packed = packed
        self.windows = windows

    def __call__(self, x: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        """Predict for noisy masks, one for each row; see :class:`PackedNetwork`."""
        return self.packed(x, timestep, self.windows)

    def features(self) -> torch.Tensor:
        """Return the image features of each row."""
        return self.packed.features(self.windows)[: len(self.windows)]
