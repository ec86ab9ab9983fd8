# SPDX-License-Identifier: Apache-2.0
"""Makes probabilities more or less sure by one number, the temperature."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Transform
from monai.utils import TransformBackends

from ..metrics.temperature_fit import PROBABILITY_CLIP

__all__ = ["TemperatureScaling", "TemperatureScalingD", "TemperatureScalingDict", "TemperatureScalingd"]


class TemperatureScaling(Transform):
    r"""Calibrate probabilities by a temperature T, such as one of :func:`monai_segdiff.fit_temperature`.

    .. math::
        p \mapsto \sigma\left(\frac{\text{logit}(\text{clip}(p, 10^{-4}, 1 - 10^{-4}))}{T}\right)

    T above 1 draws probabilities towards 0.5, T below 1 away from it. The clip is needed because diffusion models give
    exact 0 and 1; with T = 2 those become 0.0099 and 0.9901. What is above 0.5 stays above, what is not stays so, even
    where rounding would have it otherwise: the mask at the threshold 0.5 does not change. (Of several classes all
    above 0.5, two that the clip or rounding make equal may change places.) T = 1 returns the input itself, unclipped.

    Args:
        temperature: T, finite, above 0.

    Raises:
        ValueError: the temperature is not such a number.

    Example:
        >>> TemperatureScaling(2.0)(torch.tensor([[0.1, 0.5, 0.9]]))
        tensor([[0.2500, 0.5000, 0.7500]])
    """

    backend = [TransformBackends.TORCH]

    def __init__(self, temperature: float) -> None:
        if not (temperature > 0 and math.isfinite(temperature)):
            raise ValueError(f"temperature is {temperature!r}, expected a finite number above 0.")
        self.temperature = temperature

    def __call__(self, data: torch.Tensor) -> torch.Tensor:
        """Args: foreground probabilities in [0, 1], floating point, of any shape.

        Returns:
            Probabilities of the same shape and type; meta data is kept.

        Raises:
            ValueError: values are NaN, outside [0, 1] or not floating point.
        """
        if not data.is_floating_point():
            raise ValueError(f"probabilities have the type {data.dtype}, expected floating point.")
        # NaN fails this as well.
        if not ((data >= 0) & (data <= 1)).all():
            raise ValueError(f"probabilities have values from {data.min():g} to {data.max():g}, expected 0 to 1.")
        if self.temperature == 1:
            return data
        precise = data.to(torch.promote_types(data.dtype, torch.float32))
        scaled = torch.sigmoid(torch.logit(precise, eps=PROBABILITY_CLIP) / self.temperature).to(data.dtype)
        next_above_half = 0.5 + torch.finfo(data.dtype).eps / 2
        return torch.where(data > 0.5, scaled.clamp(min=next_above_half), scaled)


class TemperatureScalingd(MapTransform):
    """Dictionary form of :class:`TemperatureScaling`.

    Args:
        keys: items to scale.
        temperature: T, finite, above 0.
        allow_missing_keys: skip keys that are absent.
    """

    backend = TemperatureScaling.backend

    def __init__(self, keys: KeysCollection, temperature: float, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.transform = TemperatureScaling(temperature)

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = self.transform(result[key])
        return result


TemperatureScalingD = TemperatureScalingDict = TemperatureScalingd
