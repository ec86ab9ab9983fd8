# SPDX-License-Identifier: Apache-2.0
"""Random strength of the stains of a histological picture."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.config.type_definitions import NdarrayOrTensor
from monai.transforms.transform import MapTransform, RandomizableTransform
from monai.utils import TransformBackends, convert_to_dst_type, convert_to_tensor
from skimage.color import hed_from_rgb, rgb_from_hed

__all__ = ["RandStainJitter", "RandStainJitterD", "RandStainJitterDict", "RandStainJitterd"]

_STAINS = 3
_WHITE = 256.0  # one above the brightest value, so that black has a finite density


class RandStainJitter(RandomizableTransform):
    """Random strength of haematoxylin, eosin and DAB in an RGB picture.

    Laboratories stain differently, and thirty slides do not show it all. In optical density D = -log((x + 1) / 256)
    stains add up (Beer and Lambert). The densities of the three stains, s = D M^-1 with the stain vectors M of Ruifrok
    and Johnston (``skimage.color.rgb_from_hed``), are each changed to s (1 + a) + b, a and b drawn from
    U(-strength, strength) and U(-shift, shift), and turned back (Tellez and others, arXiv 1808.05896).

    Args:
        strength: amplitude of the factors, in 0..1; 0 leaves them at 1.
        shift: amplitude of the added density, at least 0; in natural logarithms: 0.05 darkens by up to
            5 %, in the channel that the stain absorbs most.
        prob: probability of changing the picture at all.

    Raises:
        ValueError: an amplitude is out of range.

    Example:
        >>> jitter = RandStainJitter(strength=0.2, shift=0.02)
        >>> jitter.set_random_state(0)(torch.full((3, 4, 4), 100.0)).shape
        torch.Size([3, 4, 4])
    """

    backend = [TransformBackends.TORCH]

    def __init__(self, strength: float = 0.0, shift: float = 0.0, prob: float = 1.0) -> None:
        RandomizableTransform.__init__(self, prob)
        if not 0 <= strength <= 1:
            raise ValueError(f"strength is {strength}, expected a number in 0..1.")
        if not 0 <= shift < float("inf"):
            raise ValueError(f"shift is {shift}, expected a number of at least 0.")
        self.strength = strength
        self.shift = shift
        self.factors = np.ones(_STAINS)
        self.offsets = np.zeros(_STAINS)

    def randomize(self, data: Any = None) -> None:
        """Draw whether to act, and the change of each stain."""
        super().randomize(None)
        if not self._do_transform:
            return
        self.factors = self.R.uniform(1 - self.strength, 1 + self.strength, _STAINS)
        self.offsets = self.R.uniform(-self.shift, self.shift, _STAINS)

    def __call__(self, img: NdarrayOrTensor, randomize: bool = True) -> NdarrayOrTensor:
        """Apply to one picture.

        Args:
            img: RGB picture, channel first, shape [3, *spatial], values in 0..255, uint8 or float.
            randomize: False reuses the last draw.

        Returns:
            float32 picture in 0..255 of the same shape, array type and meta data.

        Raises:
            ValueError: the first axis is not 3 long.
        """
        if img.ndim < 2 or img.shape[0] != 3:
            raise ValueError(f"image has shape {tuple(img.shape)}, expected RGB with channels first, [3, *spatial].")
        if randomize:
            self.randomize()
        out = convert_to_tensor(img, dtype=torch.float32, track_meta=False)
        if self._do_transform and (self.strength or self.shift):
            # All three steps, D -> s -> s' -> D', are one affine map of the density.
            matrix = hed_from_rgb @ np.diag(self.factors) @ rgb_from_hed
            offset = self.offsets @ rgb_from_hed
            density = -torch.log((out + 1) / _WHITE)
            density = torch.einsum("c...,cd->d...", density, torch.as_tensor(matrix).to(out))
            density += torch.as_tensor(offset).to(out).reshape(-1, *[1] * (out.ndim - 1))
            out = (_WHITE * torch.exp(-density) - 1).clamp(0, _WHITE - 1)
        return convert_to_dst_type(out, img, dtype=torch.float32)[0]


class RandStainJitterd(RandomizableTransform, MapTransform):
    """Dictionary-based version of :class:`RandStainJitter`; all keys get the same draw.

    Args:
        keys: keys of the RGB pictures.
        strength: see :class:`RandStainJitter`, like the next one.
        shift: amplitude of the added density.
        prob: probability of changing the pictures at all.
        allow_missing_keys: skip keys that are not in the data instead of raising KeyError.

    Example:
        >>> jitter = RandStainJitterd(keys="image", strength=0.2, shift=0.02)
    """

    backend = RandStainJitter.backend

    def __init__(
        self,
        keys: KeysCollection,
        strength: float = 0.0,
        shift: float = 0.0,
        prob: float = 1.0,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, prob)
        self.jitter = RandStainJitter(strength, shift, prob=prob)

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> RandStainJitterd:
        """Seed the draws; see :meth:`monai.transforms.Randomizable.set_random_state`."""
        super().set_random_state(seed, state)
        self.jitter.set_random_state(seed, state)
        return self

    def randomize(self, data: Any = None) -> None:
        """One draw for all keys."""
        self.jitter.randomize(data)
        self._do_transform = self.jitter._do_transform

    def __call__(self, data: Mapping[Hashable, NdarrayOrTensor]) -> dict[Hashable, NdarrayOrTensor]:
        """Apply to every key; see :meth:`RandStainJitter.__call__`."""
        d = dict(data)
        self.randomize()
        for key in self.key_iterator(d):
            d[key] = self.jitter(d[key], randomize=False)
        return d


RandStainJitterD = RandStainJitterDict = RandStainJitterd
