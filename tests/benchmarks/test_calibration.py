# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from benchmarks.calibration import Calibration


def by_brute_force(pixels: list[tuple[float, bool]]) -> tuple[float, float, float]:
    bins: dict[int, list[tuple[float, bool]]] = {}
    for p, y in pixels:
        bins.setdefault(min(int(p * 10), 9), []).append((p, y))
    gaps = {b: abs(sum(p for p, _ in held) - sum(y for _, y in held)) / len(held) for b, held in bins.items()}
    error = sum(len(bins[b]) / len(pixels) * gap for b, gap in gaps.items())
    return error, sum(gap**2 for gap in gaps.values()) / 10, sum((p - y) ** 2 for p, y in pixels) / len(pixels)


@pytest.mark.parametrize("highest", [1.0, 0.35])
def test_against_brute_force(highest: float) -> None:
    generator = np.random.default_rng(0)
    calibration, pixels = Calibration(), []
    for shape in ((7, 5), (3, 40)):
        p = generator.uniform(0, highest, shape).astype(np.float32)
        p.flat[:4] = (0.0, highest, 0.25, highest)
        y = generator.random(shape) < 0.3
        calibration.add(p, y)
        pixels += list(zip(p.ravel().tolist(), y.ravel().tolist(), strict=True))
    scores = calibration.scores()
    assert list(scores.values())[:3] == pytest.approx(by_brute_force(pixels), rel=1e-12)
    assert scores["empty_bins"] == (0 if highest == 1 else 6)


@pytest.mark.parametrize(
    ("probability", "truth", "error", "paper", "brier"),
    [
        ([0.0, 1.0], [False, True], 0.0, 0.0, 0.0),
        ([1.0, 0.0], [False, True], 1.0, 0.2, 1.0),
        ([0.5, 0.5], [False, True], 0.0, 0.0, 0.25),
        ([0.25, 0.25, 0.25, 0.75], [False, False, False, True], 0.25, 0.0125, 0.0625),
    ],
)
def test_closed_forms(probability: list, truth: list, error: float, paper: float, brier: float) -> None:
    calibration = Calibration()
    calibration.add(np.array(probability), np.array(truth))
    assert list(calibration.scores().values())[:3] == pytest.approx([error, paper, brier], abs=1e-15)


@pytest.mark.parametrize(
    ("probability", "message"),
    [([0.1], r"expected the same"), ([0.1, 1.1], "expected 0 to 1"), ([0.1, float("nan")], "expected 0 to 1")],
)
def test_bad_input(probability: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Calibration().add(np.array(probability), np.array([True, False]))


def test_nothing_added() -> None:
    with pytest.raises(ValueError, match="no pixel was added"):
        Calibration().scores()
