# SPDX-License-Identifier: Apache-2.0
"""Take apart what an uncertainty inferer packs into one tensor."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from itertools import accumulate

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Transform
from monai.utils import TransformBackends

__all__ = ["SplitStatistics", "SplitStatisticsD", "SplitStatisticsDict", "SplitStatisticsd"]

STATISTICS = ("mean", "standard_deviation", "entropy", "mutual_information")


class SplitStatistics(Transform):
    """Split one tensor into mean, standard deviation, entropy and mutual information.

    An inferer gives the statistics of its generations as one tensor, so that engines and transforms that resize treat
    them alike: the C channels of the first statistic, then those of the second, and so on.

    Args:
        categorical: False: each statistic has C channels, in all 4 C. True: the C channels are classes that exclude
            each other, so that entropy and mutual information have one channel each, in all 2 C + 2.

    Example:
        >>> mean, deviation, entropy, information = SplitStatistics()(torch.arange(4.0)[:, None])
        >>> information
        tensor([[3.]])
    """

    backend = [TransformBackends.TORCH, TransformBackends.NUMPY]

    def __init__(self, categorical: bool = False) -> None:
        self.categorical = categorical

    def __call__(self, data: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Split one image's statistics.

        Args:
            data: ``[4 * C, *spatial]`` or ``[2 * C + 2, *spatial]``, tensor or array.

        Returns:
            Mean, standard deviation, entropy and mutual information, ``[C, *spatial]`` or the last two
            ``[1, *spatial]``, of the type given; meta data is kept.

        Raises:
            ValueError: another number of channels.
        """
        channels = (len(data) - 2) // 2 if self.categorical else len(data) // len(STATISTICS)
        sizes = [channels, channels, 1, 1] if self.categorical else [channels] * len(STATISTICS)
        if channels < 1 or sum(sizes) != len(data):
            expected = "an even number of at least 4" if self.categorical else f"a multiple of {len(STATISTICS)}"
            raise ValueError(
                f"data has shape {tuple(data.shape)}, expected {expected} channels: {', '.join(STATISTICS)}."
            )
        ends = list(accumulate(sizes))
        return tuple(data[end - size : end] for end, size in zip(ends, sizes, strict=True))


class SplitStatisticsd(MapTransform):
    """Dictionary form of :class:`SplitStatistics`.

    The mean stays under the key, the others go to ``<key>_standard_deviation``, ``<key>_entropy`` and
    ``<key>_mutual_information``.

    Args:
        keys: items to split.
        categorical: whether the channels are classes that exclude each other.
        allow_missing_keys: skip keys that are absent.

    Example:
        >>> sorted(SplitStatisticsd(keys="pred")({"pred": torch.zeros(4, 8, 8)}))
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
