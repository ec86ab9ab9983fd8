# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from PIL import Image

from benchmarks.mask_prior_plot import draw_mask_prior


def line(arm: str, weights: str, **differences: tuple[float | None, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {"arm": arm, "weights": weights}
    for score, (value, low, high) in differences.items():
        name = f"{score}_minus_base"
        found |= {name: value, f"{name}_low": low, f"{name}_high": high}
    return found


NOTHING = (None, None, None)
ROWS = [
    line("base", "first_prediction", dice=NOTHING, surface_dice=NOTHING),
    line("head", "single_step", dice=(0.1, 0.05, 0.2), surface_dice=(0.2, None, None)),
    line("prior", "first_prediction", dice=(-0.1, -0.3, 0.1), surface_dice=NOTHING),
    line("truth", "ground_truth", dice=(0.0, 0.0, 0.1), surface_dice=(0.3, 0.1, 0.5)),
]


def _drawn(axes: Axes) -> tuple[dict[str, list], list[list]]:
    """Dots by their label, and the ends of the intervals."""
    dots = {item.get_label(): item.get_xydata().tolist() for item in axes.lines if item.get_marker() == "o"}
    bars = [item.get_xydata().tolist() for item in axes.lines[1:] if item.get_marker() != "o"]
    return dots, bars


def test_a_row_for_each_arm_but_the_base(tmp_path: Path) -> None:
    figure = draw_mask_prior(tmp_path / "a.png", ROWS)
    dice, surface = figure.axes
    first, one, truth = (text.get_text() for text in figure.legends[0].get_texts())
    assert ["noise on the first prediction" in first, "one step" in one, "noise on the truth" in truth] == [True] * 3
    dots, bars = _drawn(dice)
    assert dots == {first: [[-0.1, 1]], one: [[0.1, 0]], truth: [[0, 2]]}
    assert sorted(bars) == [[[-0.3, 1], [0.1, 1]], [[0, 2], [0.1, 2]], [[0.05, 0], [0.2, 0]]]
    dots, bars = _drawn(surface)
    assert (dots, bars) == ({one: [[0.2, 0]], truth: [[0.3, 2]]}, [[[0.1, 2], [0.5, 2]]])
    assert [text.get_text() for text in dice.get_yticklabels()] == ["head", "prior", "truth"]
    assert dice.yaxis_inverted(), "the first arm is on top"
    # The base.
    assert [np.unique(axes.lines[0].get_xdata()).tolist() for axes in (dice, surface)] == [[0], [0]]
    assert dice.get_xlabel().startswith("Dice, difference from the base")
    assert surface.get_xlabel().startswith("surface Dice, difference from the base")
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size[0] > 500


@pytest.mark.parametrize("rows", [ROWS, ROWS[:1]])
def test_one_score(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    kept = [{name: value for name, value in row.items() if "surface" not in name} for row in rows]
    assert len(draw_mask_prior(tmp_path / "a.png", kept).axes) == 1
