# SPDX-License-Identifier: Apache-2.0
"""Whether uncertainty tells where a mask is wrong."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...metrics.error_detection import compute_error_detection
from ...metrics.risk_coverage import area_under_risk_coverage, risk_coverage_curve
from ...visualize.risk_coverage_plot import draw_risk_coverage
from .image_scorer import ImageScorer, Measurement, class_map, map_of, same_shape

__all__ = ["UncertaintyScorer"]

NUM_POINTS = 100


class UncertaintyScorer(ImageScorer):
    """For each map of uncertainty: how well it finds wrong pixels, and ``risk_coverage.png``.

    ``auroc_<name>`` is :func:`monai_segdiff.metrics.compute_error_detection`, 0.5 for chance, not defined for an image
    without (or of nothing but) wrong pixels; ``aurc_<name>`` is the area under the risk-coverage curve
    (:func:`monai_segdiff.metrics.risk_coverage_curve`), the lower the better. Both are scores of images: there is
    nothing to pool.

    Args:
        names: names of the maps, which lie under ``<pred_key>_<name>``, as
            :class:`~monai_segdiff.SplitStatisticsd` puts them; each has one channel.
        pred_key: key of the predicted mask or label map.
        label_key: key of the true one.
        num_classes: classes of both, background included. A pixel of a wrong class is wrong.
    """

    def __init__(
        self,
        names: Sequence[str] = ("standard_deviation", "entropy", "mutual_information"),
        pred_key: str = "pred",
        label_key: str = "label",
        num_classes: int = 2,
    ) -> None:
        self.names = tuple(names)
        self.pred_key = pred_key
        self.label_key = label_key
        self.num_classes = num_classes
        short = {"standard_deviation": "deviation", "mutual_information": "mutual inf."}
        self.headings = {
            f"{score}_{name}": f"{score.upper()} {short.get(name, name)}"
            for score in ("auroc", "aurc")
            for name in self.names
        }

    def measure(self, item: Mapping[Hashable, Any]) -> Measurement:
        """Compare each map of uncertainty with the wrong pixels; the counts are its risk at each coverage."""
        predicted, truth = (class_map(item, key, self.num_classes) for key in (self.pred_key, self.label_key))
        same_shape(self.pred_key, predicted, self.label_key, truth)
        wrong = predicted != truth
        scores: dict[str, float | None] = dict.fromkeys(self.headings)
        risks = []
        for name in self.names:
            key = f"{self.pred_key}_{name}"
            uncertainty = map_of(item, key)
            same_shape(key, uncertainty[0].numpy(), self.label_key, truth)
            detection = float(compute_error_detection(uncertainty[None], torch.from_numpy(wrong)[None, None]))
            coverage, risk = risk_coverage_curve(uncertainty[0].numpy(), wrong, NUM_POINTS)
            scores[f"auroc_{name}"] = None if np.isnan(detection) else detection
            scores[f"aurc_{name}"] = area_under_risk_coverage(coverage, risk)["area"]
            risks.append(risk)
        return Measurement(scores, np.concatenate(risks))

    def draw(self, folder: Path, counts: np.ndarray) -> None:
        """Draw the mean curve of all images for each map."""
        coverage = np.arange(1, NUM_POINTS + 1) / NUM_POINTS
        risks = np.split(counts.mean(axis=0), len(self.names))
        draw_risk_coverage(
            folder / "risk_coverage.png", {name: (coverage, r) for name, r in zip(self.names, risks, strict=True)}
        )
