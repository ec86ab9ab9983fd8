# SPDX-License-Identifier: Apache-2.0
"""Take apart what an uncertainty inferer packs into one tensor, and add the entropy."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Transform
from monai.utils import TransformBackends

from ..inferers.generation_statistics import binary_entropy, categorical_entropy

__all__ = ["SplitStatistics", "SplitStatisticsD", "SplitStatisticsDict", "SplitStatisticsd"]

STATISTICS = ("mean", "standard_deviation", "entropy", "mutual_information")
PACKED = ("mean", "standard_deviation", "mutual_information")


class SplitStatistics(Transform):
    """Split one tensor into mean, standard deviation and mutual information, and add the entropy of the mean.

    An inferer gives the statistics of its generations as one tensor, so that engines and transforms that resize treat
    them alike: the C channels of the first statistic, then those of the second, and so on. The entropy is not among
    them: that of a resized mean is not the resized entropy. Between a sure 0 and a sure 1 there is doubt.

    Args:
        categorical: False: each statistic has C channels, in all 3 C. True: the C channels are classes that exclude
            each other, so that entropy and mutual information have one channel each, in all 2 C + 1.

    Example:
        >>> mean, deviation, entropy, information = SplitStatistics()(torch.tensor([[0.5], [0.2], [0.1]]))
        >>> entropy, information
        (tensor([[0.6931]]), tensor([[0.1000]]))
    """

    backend = [TransformBackends.TORCH]

    def __init__(self, categorical: bool = False) -> None:
        self.categorical = categorical

    def __call__(self, data: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Split one image's statistics.

        Args:
            data: ``[3 * C, *spatial]`` or ``[2 * C + 1, *spatial]``.

        Returns:
            Mean, standard deviation, entropy and mutual information, ``[C, *spatial]`` or the last two
            ``[1, *spatial]``; meta data is kept.

        Raises:
            ValueError: another number of channels.
        """
        channels = (len(data) - 1) // 2 if self.categorical else len(data) // len(PACKED)
        sizes = [channels, channels, 1] if self.categorical else [channels] * len(PACKED)
        if channels < 1 or sum(sizes) != len(data):
            expected = "an odd number of at least 3" if self.categorical else f"a multiple of {len(PACKED)}"
            raise ValueError(f"data has shape {tuple(data.shape)}, expected {expected} channels: {', '.join(PACKED)}.")
        mean, deviation, information = torch.as_tensor(data).split(sizes)
        inside = mean.clamp(0, 1)  # which resampling may leave by rounding, and then there is no logarithm
        entropy = categorical_entropy(inside[None])[0] if self.categorical else binary_entropy(inside)
        return mean, deviation, entropy, information


class SplitStatisticsd(MapTransform):
    """Dictionary form of :class:`SplitStatistics`.

    The mean stays under the key, the others go to ``<key>_standard_deviation``, ``<key>_entropy`` and
    ``<key>_mutual_information``.

    Args:
        keys: items to split.
        categorical: whether the channels are classes that exclude each other.
        allow_missing_keys: skip keys that are absent.

    Example:
        >>> sorted(SplitStatisticsd(keys="pred")({"pred": torch.zeros(3, 8, 8)}))
        ['pred', 'pred_entropy', 'pred_mutual_information', 'pred_standard_deviation']
    """

    backend = SplitStatistics.backend

    def __init__(self, keys: KeysCollection, categorical: bool = False, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.transform = SplitStatistics(categorical)

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """Split each item; see :meth:`SplitStatistics.__call__`."""
        result = dict(data)
        for key in self.key_iterator(result):
            names = (key, *(f"{key}_{name}" for name in STATISTICS[1:]))
            result.update(zip(names, self.transform(result[key]), strict=True))
        return result


SplitStatisticsD = SplitStatisticsDict = SplitStatisticsd
