# SPDX-License-Identifier: Apache-2.0
"""How well two outlines agree."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np

from ...metrics.boundary_f import boundary_counts, boundary_f_of_counts
from .image_scorer import ImageScorer, Measurement, binary_mask, same_shape

__all__ = ["BoundaryScorer"]


class BoundaryScorer(ImageScorer):
    """Boundary F (:func:`monai_segdiff.metrics.compute_boundary_f`), the paper's FBound.

    Args:
        max_distance: largest tolerance in pixels.
        pred_key: key of the predicted mask.
        label_key: key of the true mask.
    """

    headings = {"boundary_f": "boundary F"}

    def __init__(self, max_distance: int = 5, pred_key: str = "pred", label_key: str = "label") -> None:
        self.max_distance = max_distance
        self.pred_key = pred_key
        self.label_key = label_key

    def measure(self, item: Mapping[Hashable, Any]) -> Measurement:
        """Count boundary pixels that lie near the other boundary."""
        predicted, truth = binary_mask(item, self.pred_key), binary_mask(item, self.label_key)
        same_shape(self.pred_key, predicted, self.label_key, truth)
        counts = boundary_counts(predicted, truth, self.max_distance)
        return Measurement({"boundary_f": float(boundary_f_of_counts(*counts))}, counts)

    def pool(self, *counts: np.ndarray) -> dict[str, np.ndarray]:
        """Boundary F of summed counts."""
        return {"boundary_f": boundary_f_of_counts(*counts)}
