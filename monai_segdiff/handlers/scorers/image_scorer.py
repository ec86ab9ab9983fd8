# SPDX-License-Identifier: Apache-2.0
"""What an evaluation report asks of its scores."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

__all__ = ["ImageScorer", "Measurement", "binary_mask", "class_map", "map_of", "same_shape"]


class Measurement(NamedTuple):
    """What a scorer found in one image.

    Attributes:
        scores: value of each score; None where it is not defined.
        counts: numbers that may be added over images, float64 or int64 ``[K]``.
    """

    scores: dict[str, float | None]
    counts: np.ndarray


class ImageScorer(ABC):
    """Some scores of :class:`~monai_segdiff.EvaluationReport`, which belong together.

    Attributes:
        headings: the scores, in their order, with their names for a table.
        shown_counts: names of those leading counts that the report lists for every image.
    """

    headings: Mapping[str, str]
    shown_counts: Sequence[str] = ()

    @abstractmethod
    def measure(self, item: Mapping[Hashable, Any]) -> Measurement:
        """Score one image.

        Args:
            item: batch and result of one image, after post-processing; tensors ``[C, *spatial]``.

        Raises:
            ValueError: something is missing or cannot be scored; the report adds the name of the image.
        """

    def pool(self, *counts: np.ndarray) -> dict[str, np.ndarray]:
        """Return those scores that summed counts define.

        Args:
            counts: the K summed counts, each of any shape ``[...]``.

        Returns:
            Scores, float64 ``[...]``, NaN where the counts do not define one.
        """
        return {}

    def draw(self, folder: Path, counts: np.ndarray) -> None:
        """Write pictures about all images to a folder; none by default.

        Args:
            folder: where to write.
            counts: the counts of every image, ``[N, K]``.
        """
        return


def map_of(item: Mapping[Hashable, Any], key: str, channels: int = 1) -> torch.Tensor:
    """Return a map of one image, ``[channels, *spatial]``, as a plain tensor on the CPU.

    Raises:
        ValueError: it is missing, is no such tensor, or holds NaN.
    """
    if key not in item:
        raise ValueError(f"there is no {key!r}, only {sorted(map(str, item))}.")
    value = item[key]
    if not isinstance(value, torch.Tensor) or value.ndim not in (3, 4) or value.shape[0] != channels:
        found = tuple(value.shape) if hasattr(value, "shape") else type(value).__name__
        raise ValueError(f"{key} is {found}, expected a tensor of shape [{channels}, *spatial] with 2 or 3 axes.")
    if torch.isnan(value).any():
        raise ValueError(f"{key} holds NaN, expected finite numbers.")
    return value.detach().as_subclass(torch.Tensor).cpu()


def binary_mask(item: Mapping[Hashable, Any], key: str) -> np.ndarray:
    """Return a mask of one image, boolean ``[*spatial]``.

    Raises:
        ValueError: as :func:`map_of`, or it has other values than 0 and 1, which metrics would score without a word.
    """
    value = map_of(item, key)
    if not ((value == 0) | (value == 1)).all():
        low, high = float(value.min()), float(value.max())
        raise ValueError(f"{key} has values from {low:g} to {high:g}, expected only 0 and 1; binarise first.")
    return value[0].bool().numpy()


def class_map(item: Mapping[Hashable, Any], key: str, num_classes: int) -> np.ndarray:
    """Return a label map of one image, int64 ``[*spatial]``.

    Raises:
        ValueError: as :func:`map_of`, or it has other values than 0..``num_classes`` - 1.
    """
    value = map_of(item, key)
    labels = value.to(torch.int64)
    if not ((labels == value) & (labels >= 0) & (labels < num_classes)).all():
        low, high = float(value.min()), float(value.max())
        raise ValueError(f"{key} has values from {low:g} to {high:g}, expected classes 0..{num_classes - 1}.")
    return labels[0].numpy()


def same_shape(first: str, a: np.ndarray, second: str, b: np.ndarray) -> None:
    """Check that two maps belong to the same pixels.

    Raises:
        ValueError: they do not.
    """
    if a.shape != b.shape:
        raise ValueError(f"{first} has shape {a.shape} and {second} {b.shape}, expected equal shapes.")
