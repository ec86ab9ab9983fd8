# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from monai_segdiff.visualize import draw_volume_overlay, volume_overlay
from monai_segdiff.visualize.volume_overlay import CLASS_COLORS

SHAPE = (20, 16, 12)


def box(number: int, start: tuple[int, int, int], size: int = 5) -> np.ndarray:
    classes = np.zeros(SHAPE, np.int64)
    classes[tuple(slice(low, low + size) for low in start)] = number
    return classes


GREY = np.random.default_rng(0).random((1, *SHAPE))
FIRST, MOVED = box(1, (2, 4, 6)) + box(3, (12, 4, 6)), box(1, (3, 4, 6))


def figure_of(maps: dict[str, np.ndarray], spacing: tuple[float, ...] = (1, 1, 1)) -> Any:
    return volume_overlay._figure(GREY[0], maps, spacing, 1)


def test_slices_cut_the_middle_of_the_object() -> None:
    figure = figure_of({"prediction": FIRST, "label": MOVED})
    assert [axes.get_title() for axes in figure.axes] == ["slice 5 of axis 0", "slice 6 of axis 1", "slice 8 of axis 2"]
    for axis, axes in enumerate(figure.axes):
        shown = axes.images[0].get_array()
        np.testing.assert_array_equal(shown, GREY[0].take((5, 6, 8)[axis], axis).T)
        assert axes.images[0].origin == "lower"


@pytest.mark.parametrize(
    ("maps", "place"),
    [
        ({"prediction": MOVED}, [5, 6, 8]),
        ({"prediction": MOVED, "label": np.zeros(SHAPE, int)}, [5, 6, 8]),
        ({"prediction": MOVED, "label": box(2, (10, 8, 1))}, [12, 10, 3]),
        ({"prediction": np.zeros(SHAPE, int)}, [10, 8, 6]),
        # Two boxes: the middle of both would lie in neither.
        ({"prediction": box(1, (0, 0, 0), 3) + box(1, (15, 11, 7), 5)}, [16, 12, 8]),
    ],
)
def test_place(maps: dict[str, np.ndarray], place: list[int]) -> None:
    assert volume_overlay._place(maps, SHAPE) == place


def test_lines_are_the_outlines() -> None:
    axes = figure_of({"prediction": FIRST, "label": MOVED}).axes[2]
    found = [(line.get_color(), line.get_linestyle(), line.get_xydata()) for line in axes.lines]
    assert [line[:2] for line in found] == [(CLASS_COLORS[0], "-"), (CLASS_COLORS[2], "-"), (CLASS_COLORS[0], "--")]
    # Half a voxel around the box; x is the first axis of the slice.
    for (_, _, points), low in zip(found, ((2, 4), (12, 4), (3, 4)), strict=True):
        np.testing.assert_array_equal(points.min(0), np.array(low) - 0.5)
        np.testing.assert_array_equal(points.max(0), np.array(low) + 4.5)


def test_outlines_on_the_frame_are_drawn() -> None:
    axes = figure_of({"prediction": np.ones(SHAPE, int)}).axes[0]
    (line,) = axes.lines
    np.testing.assert_array_equal(line.get_xydata().min(0), [-0.5, -0.5])
    np.testing.assert_array_equal(line.get_xydata().max(0), [15.5, 11.5])


def test_proportions_and_legend() -> None:
    figure = figure_of({"prediction": FIRST, "label": MOVED}, spacing=(0.5, 1.0, 2.0))
    assert [axes.get_aspect() for axes in figure.axes] == [2, 4, 2]
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["class 1", "class 3", "prediction", "label"]


def test_grey_range() -> None:
    volume = np.arange(np.prod(SHAPE), dtype=float).reshape(SHAPE)
    figure = volume_overlay._figure(volume, {"prediction": FIRST}, (1, 1, 1), 1)
    assert figure.axes[0].images[0].get_clim() == pytest.approx(tuple(np.percentile(volume, [1, 99])))


def test_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.png"
    draw_volume_overlay(path, torch.zeros(1, *SHAPE), torch.from_numpy(FIRST)[None].float(), MOVED, linewidth=2)
    pixels = np.asarray(Image.open(path).convert("RGB"))
    assert pixels.shape == (400, 1050, 3)
    for color in (CLASS_COLORS[0], CLASS_COLORS[2]):
        assert (pixels == [int(color[i : i + 2], 16) for i in (1, 3, 5)]).all(-1).sum() > 50
    assert [entry.name for entry in path.parent.iterdir()] == ["a.png"]


@pytest.mark.parametrize(
    ("image", "prediction", "label", "message"),
    [
        (GREY[0], FIRST, None, r"image has shape \(20, 16, 12\), expected \[1, H, W, D\]"),
        (GREY * np.nan, FIRST, None, "image holds NaN"),
        (GREY, FIRST[1:], None, r"prediction has shape \(19, 16, 12\)"),
        (GREY, FIRST, MOVED.T, r"label has shape \(12, 16, 20\)"),
        (GREY, FIRST * 0.5, None, "prediction has values from 0 to 1.5, expected classes"),
        (GREY, FIRST, -MOVED, "label has values from -1 to 0"),
    ],
)
def test_errors(image: np.ndarray, prediction: np.ndarray, label: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        draw_volume_overlay(tmp_path / "a.png", image, prediction, label)
    assert not list(tmp_path.iterdir())
