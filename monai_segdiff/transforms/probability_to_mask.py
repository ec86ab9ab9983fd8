# SPDX-License-Identifier: Apache-2.0
"""The one definition of how a probability becomes a mask."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Transform
from monai.utils import TransformBackends

__all__ = ["ProbabilityToMask", "ProbabilityToMaskD", "ProbabilityToMaskDict", "ProbabilityToMaskd"]


class ProbabilityToMask(Transform):
    """Turn foreground probabilities into class indices.

    A pixel is background unless some class lies strictly above the threshold; then it is the most probable class. As
    in the released SegDiff code, exactly 0.5 is background, which matters: means of saturated generations tie.
    (``AsDiscrete(threshold=0.5)`` decides such ties the other way.)

    Args:
        threshold: probability to exceed.

    Example:
        >>> ProbabilityToMask()(torch.tensor([[0.2, 0.5, 0.6]]))
        tensor([[0, 0, 1]], dtype=torch.uint8)
    """

    backend = [TransformBackends.TORCH]

    def __init__(self, threshold: float = 0.5) -> None:
        self.threshold = threshold

    def __call__(self, data: torch.Tensor) -> torch.Tensor:
        """Args: ``[K, *spatial]`` in [0, 1], one channel for each foreground class.

        Returns:
            uint8 ``[1, *spatial]``, 0 for background, 1..K for the classes; meta data is kept.
        """
        best, index = data.max(dim=0, keepdim=True)
        return torch.where(best > self.threshold, index + 1, 0).to(torch.uint8)


class ProbabilityToMaskd(MapTransform):
    """Dictionary form of :class:`ProbabilityToMask`.

    Args:
        keys: items to turn into masks.
        threshold: probability to exceed.
        allow_missing_keys: skip keys that are absent.
    """

    backend = ProbabilityToMask.backend

    def __init__(self, keys: KeysCollection, threshold: float = 0.5, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.transform = ProbabilityToMask(threshold)

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = self.transform(result[key])
        return result


ProbabilityToMaskD = ProbabilityToMaskDict = ProbabilityToMaskd
