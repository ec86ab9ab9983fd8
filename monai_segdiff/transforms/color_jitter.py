# SPDX-License-Identifier: Apache-2.0
"""Random brightness, contrast, saturation and hue."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.config.type_definitions import NdarrayOrTensor
from monai.transforms.transform import MapTransform, RandomizableTransform
from monai.utils import TransformBackends, convert_to_dst_type, convert_to_tensor

__all__ = ["RandColorJitter", "RandColorJitterD", "RandColorJitterDict", "RandColorJitterd"]

_GREY = (0.2989, 0.587, 0.114)
_MAX = 255.0


def _grey(image: torch.Tensor) -> torch.Tensor:
    return sum(weight * channel for weight, channel in zip(_GREY, image, strict=True))[None]


def _brightness(image: torch.Tensor, factor: float) -> torch.Tensor:
    return image * factor


def _contrast(image: torch.Tensor, factor: float) -> torch.Tensor:
    return torch.lerp(_grey(image).mean().expand_as(image), image, factor)


def _saturation(image: torch.Tensor, factor: float) -> torch.Tensor:
    return torch.lerp(_grey(image).expand_as(image), image, factor)


def _hue(image: torch.Tensor, shift: float) -> torch.Tensor:
    """Add ``shift`` circles to the hue of HSV, keeping saturation and value."""
    value, chroma = image.amax(0), image.amax(0) - image.amin(0)
    red, green, blue = image
    safe = torch.where(chroma > 0, chroma, torch.ones_like(chroma))  # grey pixels: any hue gives grey again
    sector = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    # Closed form of HSV to RGB: the channel with offset n is V - C * clip(min(k, 4 - k), 0, 1), k = (n + 6 H) mod 6.
    channels = []
    for offset in (5, 3, 1):
        k = torch.remainder(offset + sector + 6 * shift, 6)
        channels.append(value - chroma * torch.minimum(k, 4 - k).clamp(0, 1))
    return torch.stack(channels)


_OPERATIONS = (_brightness, _contrast, _saturation, _hue)
_IDENTITY = (1.0, 1.0, 1.0, 0.0)


class RandColorJitter(RandomizableTransform):
    """Random brightness, contrast, saturation and hue of an RGB picture, in random order.

    The operations are those of torchvision's ``ColorJitter``: *brightness* multiplies by a factor f; *contrast* blends
    with the mean m of the grey picture, f x + (1 - f) m; *saturation* blends with the grey picture itself, grey being
    0.2989 R + 0.587 G + 0.114 B; *hue* turns the hue of HSV. After each operation values are clipped to 0..255. The
    three factors are drawn from U(max(0, 1 - a), 1 + a) and the turn from U(-h, h). SegDiff (arXiv 2112.00390) uses
    (0.4, 0.4, 0.4, 0.1) for MoNuSeg and (0.6, 0.5, 0.4, 0.025) for Vaihingen, both with ``prob=1``.

    Args:
        brightness: a for brightness, at least 0; 0 leaves it as it is.
        contrast: a for contrast.
        saturation: a for saturation.
        hue: h, as a fraction of the colour circle, in 0..0.5.
        prob: probability of changing the picture at all.

    Raises:
        ValueError: an amplitude is out of range.

    Example:
        >>> jitter = RandColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)
        >>> jitter.set_random_state(0)(torch.full((3, 4, 4), 100.0)).shape
        torch.Size([3, 4, 4])
    """

    backend = [TransformBackends.TORCH]

    def __init__(
        self,
        brightness: float = 0.0,
        contrast: float = 0.0,
        saturation: float = 0.0,
        hue: float = 0.0,
        prob: float = 1.0,
    ) -> None:
        RandomizableTransform.__init__(self, prob)
        for name, amplitude in (("brightness", brightness), ("contrast", contrast), ("saturation", saturation)):
            if not 0 <= amplitude < float("inf"):
                raise ValueError(f"{name} is {amplitude}, expected a number of at least 0.")
        if not 0 <= hue <= 0.5:
            raise ValueError(f"hue is {hue}, expected a fraction of the colour circle in 0..0.5.")
        self.brightness = brightness
        self.contrast = contrast
        self.saturation = saturation
        self.hue = hue
        self.order: tuple[int, ...] = tuple(range(len(_OPERATIONS)))
        self.factors: tuple[float, ...] = _IDENTITY

    def randomize(self, data: Any = None) -> None:
        """Draw whether to act, the order of the operations and their factors."""
        super().randomize(None)
        if not self._do_transform:
            return
        self.order = tuple(int(index) for index in self.R.permutation(len(_OPERATIONS)))
        amplitudes = (self.brightness, self.contrast, self.saturation)
        factors = [float(self.R.uniform(max(0.0, 1 - a), 1 + a)) for a in amplitudes]
        self.factors = (*factors, float(self.R.uniform(-self.hue, self.hue)))

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
        if self._do_transform:
            for index in self.order:
                if self.factors[index] != _IDENTITY[index]:
                    out = _OPERATIONS[index](out, self.factors[index]).clamp(0, _MAX)
        return convert_to_dst_type(out, img, dtype=torch.float32)[0]


class RandColorJitterd(RandomizableTransform, MapTransform):
    """Dictionary-based version of :class:`RandColorJitter`; all keys get the same draw.

    Args:
        keys: keys of the RGB pictures.
        brightness: see :class:`RandColorJitter`, like the next three.
        contrast: amplitude of the contrast.
        saturation: amplitude of the saturation.
        hue: amplitude of the hue, as a fraction of the colour circle.
        prob: probability of changing the pictures at all.
        allow_missing_keys: skip keys that are not in the data instead of raising KeyError.

    Example:
        >>> jitter = RandColorJitterd(keys="image", brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)
    """

    backend = RandColorJitter.backend

    def __init__(
        self,
        keys: KeysCollection,
        brightness: float = 0.0,
        contrast: float = 0.0,
        saturation: float = 0.0,
        hue: float = 0.0,
        prob: float = 1.0,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, prob)
        self.jitter = RandColorJitter(brightness, contrast, saturation, hue, prob=prob)

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> RandColorJitterd:
        """Seed the draws; see :meth:`monai.transforms.Randomizable.set_random_state`."""
        super().set_random_state(seed, state)
        self.jitter.set_random_state(seed, state)
        return self

    def randomize(self, data: Any = None) -> None:
        """One draw for all keys."""
        self.jitter.randomize(data)
        self._do_transform = self.jitter._do_transform

    def __call__(self, data: Mapping[Hashable, NdarrayOrTensor]) -> dict[Hashable, NdarrayOrTensor]:
        """Apply to every key; see :meth:`RandColorJitter.__call__`."""
        d = dict(data)
        self.randomize()
        for key in self.key_iterator(d):
            d[key] = self.jitter(d[key], randomize=False)
        return d


RandColorJitterD = RandColorJitterDict = RandColorJitterd
