# SPDX-License-Identifier: Apache-2.0
"""Resizing to the grid of another image."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import torch
from monai.config import KeysCollection
from monai.config.type_definitions import NdarrayOrTensor
from monai.transforms import Resize
from monai.transforms.transform import MapTransform, Transform
from monai.utils import TransformBackends

__all__ = ["ResizeToMatch", "ResizeToMatchD", "ResizeToMatchDict", "ResizeToMatchd"]

_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


class ResizeToMatch(Transform):
    """Resize a map, such as a probability, to the spatial size of another image of the same extent.

    A map that is nowhere smaller than the other image is averaged over areas, so that no pixel of it is overlooked; any
    other is interpolated linearly. Of the same size, it is returned as it is. Values stay between the least and the
    greatest one.

    Example:
        >>> ResizeToMatch()(torch.tensor([[[0.0, 1.0], [0.0, 1.0]]]), torch.zeros(3, 1, 2))
        tensor([[[0., 1.]]])
    """

    backend = [TransformBackends.TORCH]

    def __call__(  # type: ignore[override]
        self, img: NdarrayOrTensor, img_dst: NdarrayOrTensor
    ) -> torch.Tensor:
        """Resize one map.

        Args:
            img: the map, ``[C, *spatial]``.
            img_dst: the other image, ``[C', *spatial']``, with as many axes.

        Returns:
            The map, ``[C, *spatial']``.

        Raises:
            ValueError: different numbers of axes.
        """
        if img.ndim != img_dst.ndim:
            raise ValueError(
                f"The map has shape {tuple(img.shape)}, expected as many axes as the image of {tuple(img_dst.shape)}."
            )
        found, size = torch.as_tensor(img), img_dst.shape[1:]
        if found.shape[1:] == size:
            return found
        larger = all(have >= want for have, want in zip(found.shape[1:], size, strict=True))
        resized = Resize(size, mode="area" if larger else _LINEAR[len(size)])(found)
        return resized.clamp(found.min(), found.max())  # rounding may leave the range by a bit


class ResizeToMatchd(MapTransform):
    """Dictionary-based version of :class:`ResizeToMatch`.

    Args:
        keys: keys of the maps.
        key_dst: key of the image whose size they get.
        allow_missing_keys: skip keys that are not in the data instead of raising KeyError.

    Example:
        >>> resize = ResizeToMatchd(keys="pred", key_dst="label")
    """

    backend = ResizeToMatch.backend

    def __init__(self, keys: KeysCollection, key_dst: str, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.key_dst = key_dst
        self.resize = ResizeToMatch()

    def __call__(self, data: Mapping[Hashable, NdarrayOrTensor]) -> dict[Hashable, NdarrayOrTensor]:
        """Apply to every key; see :meth:`ResizeToMatch.__call__`."""
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = self.resize(d[key], d[self.key_dst])
        return d


ResizeToMatchD = ResizeToMatchDict = ResizeToMatchd
