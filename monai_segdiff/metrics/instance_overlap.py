# SPDX-License-Identifier: Apache-2.0
"""Areas and intersections of two instance maps: what every instance metric is computed from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["InstanceOverlap", "instance_overlap"]

# Two labels up to this one fit into a single int64.
MAX_LABEL = 2**31 - 1


@dataclass(frozen=True)
class InstanceOverlap:
    """The non-zero part of the contingency table of P predicted and T true instances.

    Instances are numbered by ascending label, from 0. The K pairs that share at least one pixel are listed by
    ascending true instance, then by ascending predicted one.

    Args:
        predicted_areas: pixels of each predicted instance, int64 ``[P]``.
        true_areas: pixels of each true instance, int64 ``[T]``.
        predicted: predicted instance of each pair, int64 ``[K]`` in 0..P-1.
        true: true instance of each pair, int64 ``[K]`` in 0..T-1.
        intersections: pixels that each pair shares, int64 ``[K]``, at least 1.
    """

    predicted_areas: np.ndarray
    true_areas: np.ndarray
    predicted: np.ndarray
    true: np.ndarray
    intersections: np.ndarray

    @property
    def unions(self) -> np.ndarray:
        """Pixels that lie in either instance of each pair, int64 ``[K]``."""
        return self.predicted_areas[self.predicted] + self.true_areas[self.true] - self.intersections

    @property
    def ious(self) -> np.ndarray:
        """Intersection over union of each pair, float64 ``[K]`` in (0, 1]."""
        return self.intersections / self.unions

    def best_pairs(self) -> np.ndarray:
        """For every true instance that something overlaps, its pair of largest IoU.

        Returns:
            Indices into the pairs, int64, by ascending true instance. Of equal IoUs the smallest predicted label wins.
        """
        order = np.lexsort((self.predicted, -self.ious, self.true))
        return order[np.unique(self.true[order], return_index=True)[1]]


def _check_labels(name: str, labels: np.ndarray) -> None:
    if np.issubdtype(labels.dtype, np.floating):
        if np.isnan(labels).any():
            raise ValueError(f"{name} holds NaN, expected instance labels 0, 1, 2, ...")
        fractional = labels[labels != np.floor(labels)]
        if fractional.size:
            raise ValueError(f"{name} holds {fractional[0]:g}, expected whole numbers as instance labels.")
    low, high = labels.min(initial=0), labels.max(initial=0)
    if low < 0 or high > MAX_LABEL:
        raise ValueError(f"{name} holds labels from {low} to {high}, expected labels from 0 to {MAX_LABEL}.")


def instance_overlap(prediction: np.ndarray, truth: np.ndarray) -> InstanceOverlap:
    """Count the pixels of every instance and of every overlapping pair, in one pass over the foreground.

    Args:
        prediction: instance map, ``[*spatial]`` of any dimension: whole numbers from 0 (background) to 2**31 - 1, of
            any type. Labels need not be consecutive.
        truth: instance map of the same shape.

    Returns:
        The areas and the overlapping pairs.

    Raises:
        ValueError: the shapes differ, or a map holds NaN, fractions, negative or too large numbers.

    Example:
        >>> overlap = instance_overlap(np.array([0, 5, 5, 9]), np.array([2, 2, 2, 0]))
        >>> overlap.predicted_areas, overlap.true_areas, overlap.intersections
        (array([2, 1]), array([3]), array([2]))
    """
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction has shape {prediction.shape} and truth {truth.shape}, expected equal shapes.")
    _check_labels("prediction", prediction)
    _check_labels("truth", truth)
    foreground = (prediction != 0) | (truth != 0)
    predicted_labels = prediction[foreground].astype(np.int64)
    stride = predicted_labels.max(initial=0) + 1
    codes, pixels = np.unique(truth[foreground].astype(np.int64) * stride + predicted_labels, return_counts=True)
    true_of_code, predicted_of_code = np.divmod(codes, stride)

    def areas(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Areas of the instances, and the number of the instance of each code (-1 for background)."""
        found, inverse = np.unique(np.append(labels, 0), return_inverse=True)
        totals = np.zeros(len(found), dtype=np.int64)
        np.add.at(totals, inverse[:-1], pixels)
        return totals[1:], inverse[:-1] - 1

    predicted_areas, predicted = areas(predicted_of_code)
    true_areas, true = areas(true_of_code)
    shared = (predicted >= 0) & (true >= 0)
    return InstanceOverlap(predicted_areas, true_areas, predicted[shared], true[shared], pixels[shared])
