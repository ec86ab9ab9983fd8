# SPDX-License-Identifier: Apache-2.0
"""Overlap of the classes of two label maps."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np

from ...metrics.segmentation_scores import score_of_counts
from .class_scorer import ClassScorer, defined_scores
from .image_scorer import Measurement
from .overlap_scorer import overlap_counts

__all__ = ["ClassOverlapScorer"]


class ClassOverlapScorer(ClassScorer):
    """Dice and IoU of each foreground class, and their means over the classes.

    A class that only the prediction or only the truth has scores 0. One that neither has is left out, of the image's
    mean as well; the pooled score of a class is that of the counts of all images.

    Args:
        class_names: names of the classes 1, 2, ..; 0 is background.
        pred_key: key of the predicted label map, ``[1, *spatial]``.
        label_key: key of the true label map.

    Raises:
        ValueError: no name, or the same twice.

    Example:
        >>> labels = torch.tensor([[[0, 1, 1, 2]]])
        >>> item = {"pred": torch.tensor([[[0, 1, 0, 0]]]), "label": labels}
        >>> ClassOverlapScorer(["head", "tail"]).measure(item).scores["dice_tail"]
        0.0
    """

    titles = {"dice": "Dice", "iou": "IoU"}

    def measure(self, item: Mapping[Hashable, Any]) -> Measurement:
        """Count pixels that are truly, falsely and not found, class by class."""
        counts = np.concatenate([overlap_counts(*masks) for masks in self._masks(item)])
        return Measurement(defined_scores(self.pool(*counts)), counts)

    def pool(self, *counts: np.ndarray) -> dict[str, np.ndarray]:
        """Scores of summed counts."""
        of_classes = np.reshape(counts, (len(self.class_names), 3, *np.shape(counts[0])))
        absent = of_classes.sum(axis=1) == 0
        hits = of_classes.swapaxes(0, 1)
        return self._with_means({name: np.where(absent, np.nan, score_of_counts(name, *hits)) for name in self.titles})
