# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from monai_segdiff.metrics.risk_coverage import oracle_risk, risk_coverage_curve
from monai_segdiff.visualize import risk_coverage_plot
from monai_segdiff.visualize.colors import LINE_COLORS

UNCERTAINTY, WRONG = np.arange(100) / 100, np.arange(100) % 5 == 0
CURVE = risk_coverage_curve(UNCERTAINTY, WRONG, num_points=20)
OTHER = risk_coverage_curve(-UNCERTAINTY, WRONG, num_points=10)
ORACLE = CURVE[0], oracle_risk(0.2, CURVE[0])


def test_lines_are_the_curves() -> None:
    (axes,) = risk_coverage_plot._figure({"a": CURVE, "b": OTHER}, ORACLE, 0.2, "a title").axes
    a, b, best, flat = axes.lines
    for line, expected in ((a, CURVE), (b, OTHER), (best, ORACLE)):
        np.testing.assert_array_equal(line.get_xydata().T, expected)
    assert list(flat.get_ydata()) == [0.2, 0.2]
    assert (a.get_color(), b.get_color()) == LINE_COLORS[:2]
    found = [text.get_text() for text in axes.get_legend().get_texts()]
    assert found == ["a", "b", "best possible", "no information"]
    assert axes.get_title() == "a title"
    assert axes.get_ylim()[0] == 0


def test_what_is_not_given_is_not_drawn() -> None:
    (axes,) = risk_coverage_plot._figure({"a": CURVE}, None, None, None).axes
    assert len(axes.lines) == 1
    (axes,) = risk_coverage_plot._figure({"a": CURVE}, None, 0.0, None).axes
    assert len(axes.lines) == 2


def test_file_shows_the_lines(tmp_path: Path) -> None:
    path = tmp_path / "new" / "risk_coverage.png"
    risk_coverage_plot.draw_risk_coverage(path, {"a": CURVE, "b": OTHER}, ORACLE, 0.2)
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert pixels.shape == (600, 840, 3)
    for color in LINE_COLORS[:2]:
        assert (pixels == [int(color[i : i + 2], 16) for i in (1, 3, 5)]).all(-1).sum() > 20
    assert [entry.name for entry in path.parent.iterdir()] == ["risk_coverage.png"]


@pytest.mark.parametrize(
    ("curves", "message"),
    [({}, "expected at least one name"), ({"a": (CURVE[0], OTHER[1])}, "must have same first dimension")],
)
def test_errors(curves: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        risk_coverage_plot.draw_risk_coverage(tmp_path / "a.png", curves)
    assert not list(tmp_path.iterdir())
