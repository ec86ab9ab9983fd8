# SPDX-License-Identifier: Apache-2.0
"""Everything that is scored in one segmented image."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from monai_segdiff import InstanceScorer, ProbabilityToInstances, compute_error_detection
from monai_segdiff.inferers.generation_statistics import UncertaintyStatistics

from .image_scores import image_scores, overlap_counts
from .quality_image import QualityImage

__all__ = ["quality_scores"]


def quality_scores(probability: torch.Tensor, image: QualityImage, threshold: float = 0.5) -> dict[str, Any]:
    """Score the probability of one image: mask, objects, calibration and uncertainty.

    Args:
        probability: float32 ``[1, H, W]`` in [0, 1].
        image: the truth, of the same size.
        threshold: probability that foreground exceeds.

    Returns:
        What :func:`~benchmarks.image_scores.image_scores` returns; ``overlap``, the numbers of true positive, false
        positive and false negative pixels; the scores of :class:`~monai_segdiff.InstanceScorer` for the objects of
        :class:`~monai_segdiff.ProbabilityToInstances`; and ``auroc``, how well the entropy of the probability finds
        wrong pixels (:func:`monai_segdiff.compute_error_detection`), None where no pixel or every pixel is wrong.

    Example:
        >>> truth = torch.ones(1, 4, 4)
        >>> right = quality_scores(truth, QualityImage(torch.zeros(3, 4, 4), truth > 0, truth))
        >>> right["dice"], right["aji"], right["brier_score"], right["auroc"]
        (1.0, 1.0, 0.0, None)
    """
    predicted = probability > threshold
    found = ProbabilityToInstances(threshold)(probability)
    entropy = UncertaintyStatistics.entropy(probability[None])
    auroc = compute_error_detection(entropy, (predicted != image.truth)[None]).item()
    truth = image.truth[0].numpy()
    return {
        **image_scores(probability[0].numpy(), truth, threshold),
        "overlap": list(overlap_counts(predicted[0].numpy(), truth)),
        **InstanceScorer().measure({"pred_instances": found, "instances": image.instances}).scores,
        "auroc": None if np.isnan(auroc) else auroc,
    }
