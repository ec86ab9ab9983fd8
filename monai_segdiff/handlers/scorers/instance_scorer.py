# SPDX-License-Identifier: Apache-2.0
"""How well single objects are found."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np

from ...metrics.aggregated_jaccard import aggregated_jaccard_counts, aggregated_jaccard_of_counts
from ...metrics.panoptic_quality import panoptic_counts, panoptic_quality_of_counts
from ...metrics.weighted_coverage import weighted_coverage_counts, weighted_coverage_of_counts
from .image_scorer import ImageScorer, Measurement, map_of, same_shape

__all__ = ["InstanceScorer"]


class InstanceScorer(ImageScorer):
    """Aggregated Jaccard index, panoptic quality with its two factors, and weighted coverage.

    The factors are detection and segmentation quality.

    Args:
        pred_key: key of the predicted instances, 0 background, as
            :class:`~monai_segdiff.ProbabilityToInstancesd` makes them.
        label_key: key of the true instances.
    """

    headings = {"aji": "AJI", "pq": "PQ", "dq": "DQ", "sq": "SQ", "weighted_coverage": "wt. coverage"}

    def __init__(self, pred_key: str = "pred_instances", label_key: str = "instances") -> None:
        self.pred_key = pred_key
        self.label_key = label_key

    def measure(self, item: Mapping[Hashable, Any]) -> Measurement:
        """Count what both scores are made of."""
        predicted, truth = (map_of(item, key)[0].numpy() for key in (self.pred_key, self.label_key))
        same_shape(self.pred_key, predicted, self.label_key, truth)
        functions = (aggregated_jaccard_counts, panoptic_counts, weighted_coverage_counts)
        counts = np.concatenate([function(predicted, truth) for function in functions])
        return Measurement({name: float(score) for name, score in self.pool(*counts).items()}, counts)

    def pool(self, *counts: np.ndarray) -> dict[str, np.ndarray]:
        """Scores of the objects of several images together."""
        quality = dict(zip(("pq", "dq", "sq"), panoptic_quality_of_counts(*counts[2:6]), strict=True))
        coverage = weighted_coverage_of_counts(*counts[6:])
        return {"aji": aggregated_jaccard_of_counts(*counts[:2]), **quality, "weighted_coverage": coverage}
