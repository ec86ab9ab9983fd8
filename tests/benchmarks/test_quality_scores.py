# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from benchmarks.image_scores import image_scores
from benchmarks.quality_image import QualityImage
from benchmarks.quality_scores import quality_scores
from monai_segdiff import ProbabilityToInstances, compute_aggregated_jaccard, compute_instance_panoptic_quality


def _image() -> tuple[torch.Tensor, QualityImage]:
    """Four true squares; a probability that finds most of them."""
    instances = torch.zeros(1, 24, 24)
    for number, (row, column) in enumerate(((2, 2), (2, 9), (12, 4), (14, 14)), 1):
        instances[0, row : row + 6, column : column + 6] = number
    generator = torch.Generator().manual_seed(0)
    probability = 0.3 + 0.2 * (instances > 0) + 0.3 * torch.rand(1, 24, 24, generator=generator)
    probability[0, 12:18] = 0.05 * torch.rand(6, 24, generator=generator)
    return probability, QualityImage(torch.zeros(3, 24, 24), instances > 0, instances)


@pytest.mark.parametrize("threshold", [0.5, 0.35])
def test_against_definitions(threshold: float) -> None:
    probability, image = _image()
    scores = quality_scores(probability, image, threshold)
    predicted, truth = (probability > threshold)[0].numpy(), image.truth[0].numpy()
    hits = [int((a & b).sum()) for a, b in ((predicted, truth), (predicted, ~truth), (~predicted, truth))]
    assert scores["overlap"] == hits
    assert min(hits) > 0
    assert scores["dice"] == pytest.approx(2 * hits[0] / (2 * hits[0] + hits[1] + hits[2]))
    assert scores.items() >= image_scores(probability[0].numpy(), truth, threshold).items()
    found = ProbabilityToInstances(threshold)(probability)[None]
    assert scores["aji"] == pytest.approx(compute_aggregated_jaccard(found, image.instances[None]).item())
    assert scores["pq"] == pytest.approx(compute_instance_panoptic_quality(found, image.instances[None]).item())
    p = probability[0].double().numpy()
    entropy = -(p * np.log(p) + (1 - p) * np.log(1 - p))
    # In float32 neighbouring entropies may tie.
    auroc = roc_auc_score((predicted != truth).ravel(), entropy.ravel())
    assert scores["auroc"] == pytest.approx(auroc, abs=1e-4)
    assert abs(auroc - 0.5) > 0.05
    assert json.loads(json.dumps(scores)) == scores


def test_objects_are_compared_with_the_true_ones() -> None:
    _, image = _image()
    scores = quality_scores(image.truth.float(), image)
    assert (scores["dice"], scores["pq"], scores["aji"]) == (1, 1, 1)
    one = quality_scores(image.truth.float(), image._replace(instances=image.truth.float()))
    assert one["dice"] == 1
    assert one["pq"] == 0 != one["aji"]


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_nothing_or_everything_wrong_has_no_auroc(value: float) -> None:
    truth = torch.ones(1, 8, 8)
    scores = quality_scores(torch.full((1, 8, 8), value), QualityImage(torch.zeros(3, 8, 8), truth > 0, truth))
    assert scores["auroc"] is None
    assert scores["dice"] == value
    assert not any(isinstance(one, float) and math.isnan(one) for one in scores.values())
