# SPDX-License-Identifier: Apache-2.0
"""What scores of single classes have in common."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from .image_scorer import ImageScorer, class_map, same_shape

__all__ = ["ClassScorer"]


class ClassScorer(ImageScorer):
    """Scores of every foreground class of a label map, ``<score>_<class>``, and their mean, ``<score>``.

    A class that neither prediction nor truth has defines no score. The mean is that of the classes that do; a class
    that one of the two has is among them.

    Args:
        class_names: names of the classes 1, 2, ..; 0 is background.
        pred_key: key of the predicted label map.
        label_key: key of the true label map.

    Attributes:
        titles: the scores, with their names for a table.

    Raises:
        ValueError: no name, or the same twice.
    """

    titles: Mapping[str, str]

    def __init__(self, class_names: Sequence[str], pred_key: str = "pred", label_key: str = "label") -> None:
        if isinstance(class_names, str) or not class_names or len(set(class_names)) < len(class_names):
            raise ValueError(f"class_names are {class_names!r}, expected a list of different names, at least one.")
        self.class_names = tuple(class_names)
        self.pred_key = pred_key
        self.label_key = label_key
        self.headings = {}
        for score, title in self.titles.items():
            self.headings |= {score: title, **{f"{score}_{name}": f"{title} {name}" for name in class_names}}

    def _masks(self, item: Mapping[Hashable, Any]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return the predicted and the true mask of each class, boolean ``[*spatial]``."""
        num_classes = len(self.class_names) + 1
        predicted, truth = (class_map(item, key, num_classes) for key in (self.pred_key, self.label_key))
        same_shape(self.pred_key, predicted, self.label_key, truth)
        return [(predicted == index, truth == index) for index in range(1, num_classes)]

    def _with_means(self, scores: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Name scores ``[classes, ...]``, NaN where they are not defined, and add their means over the classes."""
        named = {}
        for score, values in scores.items():
            defined = np.count_nonzero(~np.isnan(values), axis=0)
            undefined = np.full(values.shape[1:], np.nan)
            named[score] = np.divide(np.nansum(values, axis=0), defined, out=undefined, where=defined > 0)
            named |= {f"{score}_{name}": one for name, one in zip(self.class_names, values, strict=True)}
        return named


def defined_scores(scores: Mapping[str, np.ndarray]) -> dict[str, float | None]:
    """Return the scores of one image, None in place of NaN."""
    return {name: None if np.isnan(value) else float(value) for name, value in scores.items()}
