# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from benchmarks.quality_image import QualityImage
from benchmarks.quality_plot import choose_images, draw_quality
from monai_segdiff.visualize.overlay import FALSE_COLOR, MISSED_COLOR, TRUE_COLOR


@pytest.mark.parametrize(
    ("dice", "chosen"),
    [
        ([0.5], {0: "best"}),
        ([0.5, 0.75], {1: "best", 0: "worst"}),
        ([0.5, 0.75, 0.25], {1: "best", 0: "median", 2: "worst"}),
        ([0.2, 0.9, 0.4, 0.5], {1: "best", 3: "median", 0: "worst"}),
        ([0.1, 0.2, 0.3, 0.4, 0.5], {4: "best", 2: "median", 0: "worst"}),
        ([0.5, 0.5, 0.5], {0: "best", 1: "median", 2: "worst"}),
    ],
)
def test_chosen_images(dice: list[float], chosen: dict[int, str]) -> None:
    assert list(choose_images(dice).items()) == list(chosen.items())


def test_outlines_on_pictures_rows_first(tmp_path: Path) -> None:
    # x first: the object found is at x = 1, y = 8; the missed one at x = 8, y = 1; the false one at x = 8, y = 8.
    truth, mask = torch.zeros(1, 12, 12, dtype=torch.bool), torch.zeros(1, 12, 12, dtype=torch.bool)
    truth[0, 1:4, 8:11] = truth[0, 8:11, 1:4] = True
    mask[0, 1:4, 8:11] = mask[0, 8:11, 8:11] = True
    picture = torch.full((3, 12, 12), 90.0)
    picture[:, 0, 5] = 200
    image = QualityImage(picture, truth, truth.float())
    figure = draw_quality(tmp_path / "a.png", [("best: a\nDice 0.5", image, mask), ("worst: b\nDice 0", image, ~mask)])
    first, second = figure.axes
    assert [axes.get_title() for axes in (first, second)] == ["best: a\nDice 0.5", "worst: b\nDice 0"]
    shown = first.images[0].get_array()
    colors = [tuple(shown[row, column].tolist()) for row, column in ((8, 1), (1, 8), (8, 8), (5, 0), (0, 5))]
    assert colors == [TRUE_COLOR, MISSED_COLOR, FALSE_COLOR, (200,) * 3, (90,) * 3]
    with Image.open(tmp_path / "a.png") as written:
        assert written.size[0] > 1000
    assert len(draw_quality(tmp_path / "b.png", [("best", image, mask)]).axes) == 1
