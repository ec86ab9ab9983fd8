# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from benchmarks import training_sweep_plot as module
from benchmarks.training_sweep_plot import draw_training_sweep


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are drawn."""
    drawn: list[Figure] = []

    def keep(*args: Any, **kwargs: Any) -> Figure:
        drawn.append(Figure(*args, **kwargs))
        return drawn[-1]

    monkeypatch.setattr(module, "Figure", keep)
    return drawn


def row(arm: str, value: float | None, dice: float, steps: int = 1, generations: int = 1) -> dict[str, Any]:
    scores = {
        "dice": {"value": dice, "interval": (dice - 0.1, dice + 0.2)},
        "iou": {"value": dice / 2, "interval": None},
    }
    seeds = [{"dice": dice - 0.05, "iou": dice / 2}, {"dice": dice + 0.05, "iou": dice / 2}]
    return {"arm": arm, "value": value, "steps": steps, "generations": generations, **scores, "seeds": seeds}


def test_numbers_stand_on_an_axis(figures: list[Figure], tmp_path: Path) -> None:
    rows = [row("10", 10, 0.7), row("1", 1, 0.5), row("3", 3, 0.6)]
    draw_training_sweep(tmp_path / "a.png", rows, "RRDB blocks")
    dice, iou = figures[0].axes
    line, bars = dice.containers[0].lines[0], dice.containers[0].lines[2][0]
    np.testing.assert_allclose(line.get_xydata(), [[1, 0.5], [3, 0.6], [10, 0.7]])
    assert line.get_linestyle() == "-"
    np.testing.assert_allclose(bars.get_segments()[2], [[10, 0.6], [10, 0.9]])
    dots = dice.collections[-1].get_offsets()
    np.testing.assert_allclose(dots, [[1, 0.45], [1, 0.55], [3, 0.55], [3, 0.65], [10, 0.65], [10, 0.75]])
    assert dice.get_xlabel() == iou.get_xlabel() == "RRDB blocks"
    assert [text.get_text() for text in dice.get_xticklabels()] == ["1", "3", "10"]
    assert dice.get_ylabel() == "Dice, mean of images\n(dots: seeds; bars: 95 % interval over images)"
    assert iou.get_ylabel().startswith("IoU, mean of images")
    assert [text.get_text() for text in figures[0].legends[0].get_texts()] == ["1 step, 1 generation"]
    assert (tmp_path / "a.png").stat().st_size > 10_000


def test_settings_stand_beside_one_another(figures: list[Figure], tmp_path: Path) -> None:
    rows = [row(str(v), v, 0.5 + v / 10 + s / 100, s, 4) for v in (1, 3) for s in (1, 3)]
    draw_training_sweep(tmp_path / "a.png", rows)
    lines = [container.lines[0].get_xydata() for container in figures[0].axes[0].containers]
    np.testing.assert_allclose(lines[0], [[0.85, 0.61], [2.85, 0.81]])
    np.testing.assert_allclose(lines[1], [[1.15, 0.63], [3.15, 0.83]])
    texts = [text.get_text() for text in figures[0].legends[0].get_texts()]
    assert texts == ["1 step, 4 generations", "3 steps, 4 generations"]


def test_one_line_where_each_arm_has_its_own_steps(figures: list[Figure], tmp_path: Path) -> None:
    draw_training_sweep(tmp_path / "a.png", [row("25", 25, 0.5, steps=25), row("50", 50, 0.6, steps=50)])
    (container,) = figures[0].axes[0].containers
    np.testing.assert_allclose(container.lines[0].get_xydata(), [[25, 0.5], [50, 0.6]])
    assert [text.get_text() for text in figures[0].legends[0].get_texts()] == [
        "steps and generations of its own configs"
    ]


def test_named_arms_stand_below_one_another(figures: list[Figure], tmp_path: Path) -> None:
    draw_training_sweep(tmp_path / "a.png", [row("sum", None, 0.5), row("concat", None, 0.6)], "Conditioning")
    dice, iou = figures[0].axes
    line = dice.containers[0].lines[0]
    np.testing.assert_allclose(line.get_xydata(), [[0.5, 0], [0.6, 1]])
    assert line.get_linestyle() == "None"
    np.testing.assert_allclose(dice.containers[0].lines[2][0].get_segments()[0], [[0.4, 0], [0.7, 0]])
    np.testing.assert_allclose(dice.collections[-1].get_offsets(), [[0.45, 0], [0.55, 0], [0.55, 1], [0.65, 1]])
    assert [text.get_text() for text in dice.get_yticklabels()] == ["sum", "concat"]
    assert dice.yaxis_inverted(), "the first arm is on top"
    assert dice.get_ylabel() == "Conditioning"
    assert iou.get_xlabel() == "IoU, mean of images\n(dots: seeds; bars: 95 % interval over images)"


def test_a_single_arm(tmp_path: Path) -> None:
    draw_training_sweep(tmp_path / "a.png", [row("1", 1, 0.5)])
    draw_training_sweep(tmp_path / "b.png", [row("sum", None, 0.5)])
