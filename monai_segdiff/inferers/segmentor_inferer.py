# SPDX-License-Identifier: Apache-2.0
"""An ordinary network of logits behind the interface of the diffusion inferers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from monai.inferers import SlidingWindowInferer
from monai.utils import BlendMode, ensure_tuple
from torch import nn

__all__ = ["SegmentorInferer"]


class SegmentorInferer(SlidingWindowInferer):
    """Segment images by a network that is no diffusion model, such as MONAI's ``UNet``.

    It returns what :class:`~monai_segdiff.SegDiffInferer` returns, the probability of each foreground class, so that a
    baseline is trained, validated and evaluated by the same configs as the diffusion model beside it. Windows are
    MONAI's; what they blend is the probability, the sigmoid of the logits, as in the diffusion inferers.

    Args:
        roi_size: size of the windows; smaller images are padded by repeating their border.
        overlap: overlap of the windows, a fraction in [0, 1).
        mode: ``"gaussian"`` or ``"constant"`` weights in blending.
        sw_batch_size: windows in one call of the network.
        amp: run the network in bfloat16.
        size_divisor: what the network needs ``roi_size`` to be a multiple of.
        num_inference_steps: 0. With the next one a config's options for diffusion are refused, instead of ignored.
        num_generations: 1.

    Raises:
        ValueError: steps or generations, which only a diffusion model has, or a window that the network cannot take.

    Example:
        >>> inferer = SegmentorInferer(roi_size=32)
        >>> inferer(torch.zeros(1, 3, 40, 50), torch.nn.Conv2d(3, 1, 1)).shape
        torch.Size([1, 1, 40, 50])
    """

    num_calls = 1

    def __init__(
        self,
        roi_size: Sequence[int] | int,
        overlap: Sequence[float] | float = 0.25,
        mode: str = BlendMode.GAUSSIAN,
        sw_batch_size: int = 1,
        amp: bool = False,
        size_divisor: int = 1,
        num_inference_steps: int = 0,
        num_generations: int = 1,
    ) -> None:
        if (num_inference_steps, num_generations) != (0, 1):
            raise ValueError(
                "A network that is no diffusion model has num_inference_steps=0 and num_generations=1, "
                f"found {num_inference_steps} and {num_generations}."
            )
        if any(edge % size_divisor for edge in ensure_tuple(roi_size)):
            raise ValueError(f"roi_size is {roi_size}, expected multiples of {size_divisor}.")
        super().__init__(roi_size, sw_batch_size, overlap, mode, padding_mode="replicate")
        self.amp = amp

    def __call__(  # type: ignore[override]
        self, inputs: torch.Tensor, network: nn.Module, *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """Segment images.

        Args:
            inputs: normalised images ``[B, C, *spatial]``.
            network: maps ``[B, C, *roi_size]`` to logits ``[B, K, *roi_size]`` of K foreground classes.
            args: further arguments of the network.
            kwargs: further arguments of the network.

        Returns:
            Probabilities ``[B, K, *spatial]`` in [0, 1].
        """

        def probability(windows: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
            with torch.autocast(windows.device.type, dtype=torch.bfloat16, enabled=self.amp):
                logits = network(windows, *args, **kwargs)
            return logits.float().sigmoid()

        found = super().__call__(inputs, probability, *args, **kwargs)
        return cast(torch.Tensor, found)
