# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import torch
from PIL import Image

from monai_segdiff import ProbabilityToMask
from monai_segdiff.visualize import draw_overlay, draw_uncertainty
from monai_segdiff.visualize.overlay import FALSE_COLOR, MISSED_COLOR, PREDICTION_COLOR

SIZE = (90, 140)
LIMITS = {"probability": 1.0, "standard_deviation": 0.5, "entropy": math.log(2), "mutual_information": math.log(2)}


def statistics(channels: int = 1, size: tuple[int, int] = SIZE, seed: int = 0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {name: (limit * generator.random((channels, *size))).astype(np.float32) for name, limit in LIMITS.items()}


def picture(size: tuple[int, int] = SIZE) -> np.ndarray:
    return np.random.default_rng(9).integers(0, 200, (3, *size), dtype=np.uint8)


def drawn(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def colored(values: np.ndarray, limit: float) -> np.ndarray:
    return np.asarray(mpl.colormaps["viridis"](values / limit, bytes=True))[..., :3]


def place(panel: np.ndarray, page: np.ndarray) -> tuple[int, int]:
    """Row and column at which the page shows the panel, pixel by pixel."""
    height, width = panel.shape[:2]
    inside = page[: len(page) - height + 1, : page.shape[1] - width + 1]
    for row, column in np.argwhere((inside == panel[0, 0]).all(-1)):
        shown = page[row : row + height, column : column + width]
        if (shown[0] == panel[0]).all() and (shown == panel).all():
            return int(row), int(column)
    raise AssertionError("the page does not show this panel")


def test_panels_show_every_pixel(tmp_path: Path) -> None:
    maps = statistics()
    predicted = maps["probability"][0] > 0.5
    draw_uncertainty(tmp_path / "new" / "a.png", picture(), maps)
    page = drawn(tmp_path / "new" / "a.png")
    panels = [draw_overlay(picture(), predicted), *(colored(maps[name][0], limit) for name, limit in LIMITS.items())]
    places = [place(panel, page) for panel in panels]
    assert len({row for row, _ in places}) == 1
    columns = [column for _, column in places]
    assert all(right - left > SIZE[1] for left, right in zip(columns, columns[1:], strict=False))
    assert [path.name for path in tmp_path.rglob("*.*")] == ["a.png"]


def test_colors_do_not_depend_on_the_values_present(tmp_path: Path) -> None:
    # Half of the largest value of each is the middle of the colours, though nothing else is in the picture.
    maps = {name: np.full((1, *SIZE), limit / 2, np.float32) for name, limit in LIMITS.items()}
    draw_uncertainty(tmp_path / "a.png", picture(), maps)
    middle = (drawn(tmp_path / "a.png") == colored(np.array(0.5), 1.0)).all(-1)
    assert 4 * math.prod(SIZE) <= middle.sum() < 4.1 * math.prod(SIZE)


def test_a_color_bar_below_each_map(tmp_path: Path) -> None:
    nothing = {name: 0 * values for name, values in statistics().items()}
    draw_uncertainty(tmp_path / "a.png", np.zeros((1, *SIZE)), nothing)
    page = drawn(tmp_path / "a.png")
    bottom = place(np.zeros((*SIZE, 3), np.uint8), page)[0] + SIZE[0]
    # No map shows any but the first colour. A few steps apart, since neighbours blend in a bar.
    others = colored(np.arange(10, 256) / 255, 1.0).astype(int)
    found = [np.count_nonzero((np.abs(line[:, None] - others) <= 3).all(-1).any(-1)) for line in page[::5].astype(int)]
    above = -(-bottom // 5)
    assert not any(found[:above])
    assert max(found[above:]) > 4 * 250


def test_wrong_pixels_are_marked(tmp_path: Path) -> None:
    maps = {name: 0 * values for name, values in statistics().items()}
    maps["probability"][0, 20:60, 30:80] = 1
    truth = np.zeros(SIZE, np.uint8)
    truth[25:70, 30:80] = 1
    draw_uncertainty(tmp_path / "a.png", picture(), maps, truth[None])
    page = drawn(tmp_path / "a.png")
    expected = draw_overlay(picture(), maps["probability"])
    expected[20:25, 30:80] = FALSE_COLOR
    expected[60:70, 30:80] = MISSED_COLOR
    assert place(expected, page)
    legend = 3000  # two patches are smaller than that
    for color, count in ((FALSE_COLOR, 5 * 50), (MISSED_COLOR, 10 * 50)):
        assert count < (page == color).all(-1).sum() < count + legend
    draw_uncertainty(tmp_path / "a.png", picture(), maps)
    assert not (drawn(tmp_path / "a.png") == FALSE_COLOR).all(-1).any()


def test_one_row_for_each_class(tmp_path: Path) -> None:
    maps = statistics(channels=3)
    truth = np.random.default_rng(5).integers(0, 4, SIZE)
    draw_uncertainty(tmp_path / "a.png", picture(), maps, truth, threshold=0.7)
    page = drawn(tmp_path / "a.png")
    classes = ProbabilityToMask(0.7)(torch.from_numpy(maps["probability"])).numpy()[0]
    rows = []
    for number in (1, 2, 3):
        overlay = draw_overlay(picture(), classes == number)
        overlay[(classes == number) & (truth != number)] = FALSE_COLOR
        overlay[(classes != number) & (truth == number)] = MISSED_COLOR
        panels = [overlay, *(colored(maps[name][number - 1], limit) for name, limit in LIMITS.items())]
        rows.append({place(panel, page)[0] for panel in panels})
    assert [len(row) for row in rows] == [1, 1, 1]
    assert sorted(rows, key=min) == rows


def test_exactly_the_threshold_is_background(tmp_path: Path) -> None:
    maps = {name: 0 * values for name, values in statistics().items()}
    maps["probability"] += 0.5
    draw_uncertainty(tmp_path / "a.png", picture(), maps)
    assert place(picture().transpose(1, 2, 0), drawn(tmp_path / "a.png"))
    draw_uncertainty(tmp_path / "a.png", picture(), maps, threshold=0.49)
    found = (drawn(tmp_path / "a.png") == PREDICTION_COLOR).all(-1).sum()
    assert found > 2 * sum(SIZE) - 4


@pytest.mark.parametrize(
    ("size", "panel"),
    [
        ((128, 40), (256, 80)),  # enlarged by 2
        ((30, 25), (240, 200)),  # by 8
        ((129, 129), (129, 129)),
        ((1100, 200), (1024, 186)),  # shrunk
        ((3, 3000), (1, 1024)),
    ],
)
def test_size_of_the_panels(size: tuple[int, int], panel: tuple[int, int], tmp_path: Path) -> None:
    maps = {name: np.full((1, *size), limit / 4, np.float32) for name, limit in LIMITS.items()}
    draw_uncertainty(tmp_path / "a.png", np.zeros((1, *size)), maps)
    shown = (drawn(tmp_path / "a.png") == colored(np.array(0.25), 1.0)).all(-1)
    lines = np.flatnonzero(shown.sum(1) >= 4 * panel[1])
    assert lines[-1] - lines[0] + 1 == len(lines) == panel[0]
    assert (shown[lines].sum(1) == 4 * panel[1]).all()


def test_shrinking_takes_means_of_values(tmp_path: Path) -> None:
    # A fine chequerboard of 0 and 1 is 0.5 from afar, which is no mean of two colours.
    maps = {name: np.zeros((1, 2048, 200), np.float32) for name in LIMITS}
    maps["probability"][0] = np.indices((2048, 200)).sum(0) % 2
    draw_uncertainty(tmp_path / "a.png", np.zeros((1, 2048, 200)), maps)
    assert (drawn(tmp_path / "a.png") == colored(np.array(0.5), 1.0)).all(-1).sum() >= 1024 * 100


def test_an_archive_serves_as_statistics(tmp_path: Path) -> None:
    maps = statistics()
    np.savez(tmp_path / "a.npz", **maps)
    draw_uncertainty(tmp_path / "a.png", picture(), maps)
    with np.load(tmp_path / "a.npz") as archive:
        draw_uncertainty(tmp_path / "b.png", torch.from_numpy(picture()), archive)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"statistics": {"probability": np.zeros((1, *SIZE))}}, r"statistics lack \['standard_deviation', 'entropy'"),
        ({"probability": np.zeros(SIZE)}, r"probability has shape \(90, 140\)"),
        ({"probability": np.zeros((0, *SIZE))}, r"probability has shape \(0, 90, 140\)"),
        ({"entropy": np.zeros((2, *SIZE))}, r"entropy has shape \(2, 90, 140\) and probability \(1, 90, 140\)"),
        ({"probability": np.full((1, *SIZE), 1.1)}, "probability has values from 1.1 to 1.1, expected 0 to 1"),
        ({"standard_deviation": np.full((1, *SIZE), 0.6)}, "standard_deviation has values .* expected 0 to 0.5"),
        ({"mutual_information": np.full((1, *SIZE), -0.1)}, "mutual_information has values .* expected 0 to 0.6931"),
        ({"entropy": np.full((1, *SIZE), np.nan)}, "entropy has values from nan"),
        ({"image": picture((140, 90))}, r"statistics have the size \(90, 140\), expected .* image, \(140, 90\)"),
        ({"image": picture()[0]}, "expected channel-first"),
        ({"truth": np.zeros((140, 90))}, r"truth has shape \(140, 90\), expected \(90, 140\)"),
        ({"truth": np.zeros((2, *SIZE))}, r"truth has shape \(2, 90, 140\)"),
        ({"truth": np.full(SIZE, 2)}, r"truth has values from 2 to 2, expected classes 0\.\.1"),
    ],
)
def test_errors(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    maps = statistics() | {name: value for name, value in changes.items() if name in LIMITS}
    given = {"image": picture(), "statistics": maps, "truth": None}
    given |= {name: value for name, value in changes.items() if name in given}
    with pytest.raises(ValueError, match=message):
        draw_uncertainty(tmp_path / "a.png", **given)
    assert not list(tmp_path.iterdir())
