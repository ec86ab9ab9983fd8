# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from monai_segdiff.metrics.calibration_score import calibration_counts
from monai_segdiff.visualize import reliability_diagram
from monai_segdiff.visualize.colors import LINE_COLORS

FULL = calibration_counts(np.repeat(np.arange(0.05, 1, 0.1), 20), np.tile(np.arange(20) < 4, 10))
# 3 pixels in the first bin, 1 in the last of four.
SPARSE = calibration_counts(np.array([0.0, 0.1, 0.2, 1.0]), np.array([0, 0, 1, 1]), num_bins=4)


def test_lines_are_the_counts() -> None:
    figure = reliability_diagram._figure({"a": FULL, "b": SPARSE}, "a title", ("x", "y"))
    reliability, histogram = figure.axes
    perfect, a, b = reliability.lines
    np.testing.assert_array_equal(perfect.get_xdata(), perfect.get_ydata())
    np.testing.assert_allclose(a.get_xydata(), [(x, 0.2) for x in np.arange(0.05, 1, 0.1)])
    # Empty bins are left out.
    np.testing.assert_allclose(b.get_xydata(), [(0.1, 1 / 3), (1, 1)])
    assert [to_hex(line.get_color()).upper() for line in (a, b)] == list(LINE_COLORS[:2])
    assert [text.get_text() for text in reliability.get_legend().get_texts()] == [
        "perfect",
        "a, ECE 0.3400",
        "b, ECE 0.1750",
    ]
    assert reliability.get_title() == "a title"
    assert (histogram.get_xlabel(), reliability.get_ylabel()) == ("x", "y")
    assert histogram.get_yscale() == "log"
    assert histogram.get_ylim() == (0.5, 40)
    many, few = histogram.patches
    np.testing.assert_array_equal(many.get_data().values, [20] * 10)
    np.testing.assert_array_equal(few.get_data().values, [3, np.nan, np.nan, 1])
    np.testing.assert_allclose(few.get_data().edges, [0, 0.25, 0.5, 0.75, 1])


def test_file_shows_the_lines(tmp_path: Path) -> None:
    path = tmp_path / "new" / "reliability.png"
    reliability_diagram.draw_reliability_diagram(path, {"a": FULL, "b": SPARSE})
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert pixels.shape == (900, 720, 3)
    for color in LINE_COLORS[:2]:
        drawn = (pixels == [int(color[i : i + 2], 16) for i in (1, 3, 5)]).all(-1)
        # In the diagram and in the histogram.
        assert drawn[:600].sum() > 50
        assert drawn[650:].sum() > 50
    assert [entry.name for entry in path.parent.iterdir()] == ["reliability.png"]


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({}, "expected at least one name"),
        ({"a": np.zeros((10, 3))}, "hold no pixel"),
        ({"a": FULL, "b": FULL[:, :2]}, "expected"),
    ],
)
def test_errors(counts: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        reliability_diagram.draw_reliability_diagram(tmp_path / "a.png", counts)
    assert not list(tmp_path.iterdir())
