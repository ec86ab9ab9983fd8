# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch

from monai_segdiff.metrics.risk_coverage import (
    RiskCoverageMetric,
    area_under_risk_coverage,
    oracle_risk,
    risk_coverage_curve,
)


def over_all_orders(uncertainty: list[float], wrong: list[int]) -> list[float]:
    """Risk of the first 1, 2, ... pixels, mean over all orders that sort the uncertainty."""
    curves = []
    for order in permutations(range(len(wrong))):
        if all(uncertainty[a] <= uncertainty[b] for a, b in zip(order, order[1:], strict=False)):
            curves.append([sum(wrong[i] for i in order[:kept]) / kept for kept in range(1, len(wrong) + 1)])
    return np.mean(curves, axis=0).tolist()


@pytest.mark.parametrize("seed", range(8))
def test_against_all_orders(seed: int) -> None:
    generator = np.random.default_rng(seed)
    uncertainty, wrong = generator.integers(-1, 1 + seed % 4, 7) / 3, generator.integers(0, 2, 7)
    coverage, risk = risk_coverage_curve(uncertainty, wrong, num_points=7)
    np.testing.assert_allclose(coverage, np.arange(1, 8) / 7)
    np.testing.assert_allclose(risk, over_all_orders(uncertainty.tolist(), wrong.tolist()), atol=1e-12)


def test_points_that_are_no_whole_number_of_pixels() -> None:
    # As if each pixel were divided into equal parts.
    generator = np.random.default_rng(0)
    uncertainty, wrong = generator.integers(0, 9, (5, 6)) / 7, generator.integers(0, 2, (5, 6))
    coverage, risk = risk_coverage_curve(uncertainty, wrong, num_points=77)
    divided = risk_coverage_curve(uncertainty.repeat(77), wrong.repeat(77), num_points=77)
    np.testing.assert_allclose(risk, divided[1], atol=1e-12)
    assert (len(coverage), coverage[-1], risk[-1]) == (77, 1, pytest.approx(wrong.mean()))


def test_the_order_of_pixels_and_the_scale_do_not_matter() -> None:
    generator = np.random.default_rng(1)
    uncertainty, wrong = generator.integers(0, 4, 200).astype(np.float32), generator.random(200) < 0.3
    order = generator.permutation(200)
    _, risk = risk_coverage_curve(uncertainty, wrong)
    np.testing.assert_array_equal(risk_coverage_curve(uncertainty[order] ** 3 - 5, wrong[order])[1], risk)


@pytest.mark.parametrize(
    ("uncertainty", "wrong", "risk", "oracle"),
    [
        ((0.1, 0.2, 0.3, 0.4), (0, 0, 1, 1), (0, 0, 1 / 3, 1 / 2), (0, 0, 1 / 3, 1 / 2)),  # the best
        ((0.4, 0.3, 0.2, 0.1), (0, 0, 1, 1), (1, 1, 2 / 3, 1 / 2), (0, 0, 1 / 3, 1 / 2)),  # the worst
        ((0.5, 0.5, 0.5, 0.5), (0, 0, 1, 1), (1 / 2,) * 4, (0, 0, 1 / 3, 1 / 2)),  # says nothing
        ((0.1, 0.2, 0.3, 0.4), (0, 0, 0, 0), (0,) * 4, (0,) * 4),
        ((0.1, 0.2, 0.3, 0.4), (1, 1, 1, 1), (1,) * 4, (1,) * 4),
        ((0.0, -0.0, 0.0, 0.1), (1, 0, 0, 0), (1 / 3, 1 / 3, 1 / 3, 1 / 4), (0, 0, 0, 1 / 4)),
    ],
)
def test_closed_forms(uncertainty: tuple, wrong: tuple, risk: tuple, oracle: tuple) -> None:
    coverage, found = risk_coverage_curve(np.array(uncertainty), np.array(wrong), num_points=4)
    assert found == pytest.approx(risk)
    assert oracle_risk(found[-1], coverage) == pytest.approx(oracle)
    scores = area_under_risk_coverage(coverage, found)
    assert scores == pytest.approx(
        {"area": np.mean(risk), "oracle_area": np.mean(oracle), "excess": np.mean(risk) - np.mean(oracle)}
    )


def test_oracle_is_the_uncertainty_that_knows() -> None:
    wrong = np.random.default_rng(0).random(1000) < 0.137
    coverage, risk = risk_coverage_curve(wrong.astype(float), wrong)
    np.testing.assert_allclose(risk, oracle_risk(wrong.mean(), coverage), atol=1e-12)
    assert area_under_risk_coverage(coverage, risk)["excess"] == pytest.approx(0, abs=1e-12)


def test_a_single_pixel() -> None:
    coverage, risk = risk_coverage_curve(np.array([3]), np.array([True]), num_points=3)
    assert (coverage.tolist(), risk.tolist()) == ([1 / 3, 2 / 3, 1], [1, 1, 1])


def test_metric() -> None:
    generator = torch.Generator().manual_seed(0)
    uncertainty = torch.rand(3, 2, 6, 7, generator=generator)
    wrong = torch.rand(3, 2, 6, 7, generator=generator) < torch.tensor([0.1, 0.3, 0.6])[:, None, None, None]
    metric = RiskCoverageMetric(num_points=10)
    assert metric(uncertainty[:2], wrong[:2]).shape == (2, 2, 10)
    metric([uncertainty[2]], [wrong[2].float()])
    curves = [
        [risk_coverage_curve(uncertainty[i, c].numpy(), wrong[i, c].numpy(), 10)[1] for c in range(2)] for i in range(3)
    ]
    assert metric.get_buffer().shape == (3, 2, 10)
    assert metric.aggregate().item() == pytest.approx(np.mean(curves))
    assert metric.aggregate("mean_batch").tolist() == pytest.approx(np.mean(curves, axis=(0, 2)))
    coverage, risk = metric.curve()
    np.testing.assert_allclose(coverage, np.arange(1, 11) / 10)
    np.testing.assert_allclose(risk, np.mean(curves, axis=(0, 1)))
    assert risk.dtype == np.float64
    metric.reset()
    for read in (metric.aggregate, metric.curve):
        with pytest.raises(ValueError, match="call the metric first"):
            read()


def test_reduction_of_the_constructor() -> None:
    metric = RiskCoverageMetric(reduction="sum")
    metric(torch.zeros(2, 1, 4, 4), torch.ones(2, 1, 4, 4))
    assert metric.aggregate().item() == 2
    assert len(metric.curve()[0]) == 100


@pytest.mark.parametrize(
    ("uncertainty", "wrong", "num_points", "message"),
    [
        ([0.1, math.nan], [0, 1], 10, "uncertainty holds NaN or infinity"),
        ([0.1, -math.inf], [0, 1], 10, "uncertainty holds NaN or infinity"),
        ([0.1, 0.2], [0, 0.5], 10, "wrong has values from 0 to 0.5, expected only 0 and 1"),
        ([0.1, 0.2], [0, math.nan], 10, "wrong has values from nan to nan"),
        ([0.1, 0.2], [0, 1, 1], 10, "expected equal shapes"),
        ([], [], 10, "not empty"),
        ([0.1, 0.2], [0, 1], 0, "num_points is 0"),
        ([0.1, 0.2], [0, 1], 1.5, "num_points is 1.5"),
        ([0.1, 0.2], [0, 1], True, "num_points is True"),
    ],
)
def test_errors(uncertainty: list, wrong: list, num_points: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        risk_coverage_curve(np.array(uncertainty), np.array(wrong), num_points)
