# SPDX-License-Identifier: Apache-2.0
"""A network's two halves through ``torch.compile``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn

from ..networks.nets import SegDiffUNet

__all__ = ["CompiledNetwork"]


class CompiledNetwork:
    """Compile ``encode_image`` and ``forward`` of a network on first use, each as one graph.

    Shapes are taken as fixed: the inferer calls both with one batch size and, given a ``roi_size``, one window size, so
    that neither further steps nor further images compile again. The last network is remembered; another one compiles
    anew.

    Args:
        mode: of ``torch.compile``; True for its default.
    """

    def __init__(self, mode: bool | str = True) -> None:
        self.options: dict[str, Any] = {"fullgraph": True, "dynamic": False}
        if isinstance(mode, str):
            self.options["mode"] = mode
        self._last: tuple[nn.Module, Callable[..., torch.Tensor], Callable[..., torch.Tensor]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        # Compiled code cannot be copied or sent to another process; it is made again there.
        return {**self.__dict__, "_last": None}

    def __call__(self, network: nn.Module) -> tuple[Callable[..., torch.Tensor], Callable[..., torch.Tensor]]:
        """Return the compiled forms of ``network.encode_image`` and ``network``."""
        last = self._last
        if last is None or last[0] is not network:
            encode = torch.compile(cast(SegDiffUNet, network).encode_image, **self.options)
            denoise = torch.compile(network.forward, **self.options)
            # Copies: where a CUDA graph is replayed its output is overwritten.
            last = (
                network,
                lambda *args, **kwargs: encode(*args, **kwargs).clone(),
                lambda *args, **kwargs: denoise(*args, **kwargs).clone(),
            )
            self._last = last
        return last[1], last[2]
