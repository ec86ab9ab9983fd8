# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.segmentation import find_boundaries

from monai_segdiff.visualize import draw_overlay
from monai_segdiff.visualize.overlay import FALSE_COLOR, MISSED_COLOR, PREDICTION_COLOR, TRUE_COLOR

SHAPE = (30, 44)


def box(*places: tuple[int, int, int, int]) -> np.ndarray:
    mask = np.zeros(SHAPE, np.uint8)
    for top, left, height, width in places:
        mask[top : top + height, left : left + width] = 1
    return mask


def where(picture: np.ndarray, color: tuple[int, ...]) -> np.ndarray:
    return (picture == np.array(color)).all(-1)


def outline(mask: np.ndarray) -> np.ndarray:
    return find_boundaries(mask.astype(bool), mode="inner")


GREY = np.full((3, *SHAPE), 90.0)


def test_three_kinds_of_objects() -> None:
    found, false, missed = (3, 3, 6, 8), (20, 5, 6, 6), (12, 30, 8, 9)
    picture = draw_overlay(GREY, box(found, false), box((4, 4, 6, 8), missed))
    assert picture.dtype == np.uint8
    assert picture.shape == (*SHAPE, 3)
    np.testing.assert_array_equal(where(picture, TRUE_COLOR), outline(box(found)))
    np.testing.assert_array_equal(where(picture, FALSE_COLOR), outline(box(false)))
    np.testing.assert_array_equal(where(picture, MISSED_COLOR), outline(box(missed)))
    assert where(picture, (90, 90, 90)).sum() == np.prod(SHAPE) - outline(box(found, false, missed)).sum()


@pytest.mark.parametrize(
    ("prediction", "truth", "true", "false", "missed"),
    [
        ((2, 2, 8, 8), (2, 2, 8, 4), True, False, False),  # half of the prediction is covered
        ((2, 2, 8, 8), (2, 2, 8, 3), False, True, False),  # less than half
        ((2, 2, 8, 3), (2, 2, 8, 8), True, False, True),  # right, but most of the object is missed
        ((2, 2, 8, 8), (2, 20, 8, 8), False, True, True),
    ],
)
def test_half_covered(prediction: tuple, truth: tuple, true: bool, false: bool, missed: bool) -> None:
    picture = draw_overlay(GREY, box(prediction), box(truth))
    found = tuple(where(picture, color).any() for color in (TRUE_COLOR, FALSE_COLOR, MISSED_COLOR))
    assert found == (true, false, missed)


def test_without_label() -> None:
    picture = draw_overlay(GREY, box((3, 3, 6, 8)))
    np.testing.assert_array_equal(where(picture, PREDICTION_COLOR), outline(box((3, 3, 6, 8))))


@pytest.mark.parametrize("linewidth", [1, 2, 3])
def test_line_width_and_image_edge(linewidth: int) -> None:
    # Cut off by the upper left corner: the edge of the picture is outlined like any other side.
    picture = draw_overlay(GREY, box((0, 0, 10, 12)), linewidth=linewidth)
    expected = box((0, 0, 10, 12)) - box((linewidth, linewidth, 10 - 2 * linewidth, 12 - 2 * linewidth))
    np.testing.assert_array_equal(where(picture, PREDICTION_COLOR), expected.astype(bool))


def test_empty_masks_leave_the_picture() -> None:
    picture = draw_overlay(GREY, box(), box())
    assert (picture == 90).all()


@pytest.mark.parametrize(
    "image",
    [
        np.full((3, *SHAPE), 90, np.uint8),
        np.full((1, *SHAPE), 90, np.float32),
        torch.full((3, *SHAPE), 90, dtype=torch.bfloat16),
        torch.full((1, *SHAPE), 90, dtype=torch.int16),
    ],
)
def test_image_types(image: np.ndarray | torch.Tensor) -> None:
    mask = torch.from_numpy(box((3, 3, 6, 8)))[None].bool()
    np.testing.assert_array_equal(draw_overlay(image, mask, mask), draw_overlay(GREY, mask, mask))


def test_a_read_only_picture_is_not_drawn_on() -> None:
    rows = np.full((*SHAPE, 3), 90, np.uint8)
    rows.flags.writeable = False
    picture = draw_overlay(rows.transpose(2, 0, 1), box((3, 3, 6, 8)))
    np.testing.assert_array_equal(picture, draw_overlay(GREY, box((3, 3, 6, 8))))
    assert (rows == 90).all()


def test_values_outside_are_clipped() -> None:
    image = np.stack([np.full(SHAPE, -20.0), np.full(SHAPE, 300.0), np.full(SHAPE, 1.6)])
    assert draw_overlay(image, box())[0, 0].tolist() == [0, 255, 2]


@pytest.mark.parametrize(
    ("image", "prediction", "label", "linewidth", "message"),
    [
        (GREY[0], box(), None, 1, "expected channel-first"),
        (GREY.transpose(1, 2, 0), box(), None, 1, "expected channel-first"),
        (GREY, box().T, None, 1, "prediction has shape \\(44, 30\\), expected \\(30, 44\\)"),
        (GREY, box(), box()[1:], 1, "label has shape"),
        (GREY, box() + 0.5, None, 1, "prediction is not binary"),
        (GREY, box() * np.nan, None, 1, "prediction is not binary"),
        (GREY * np.nan, box(), None, 1, "image holds NaN"),
        (GREY, box(), None, 0, "linewidth is 0"),
    ],
)
def test_errors(image: np.ndarray, prediction: np.ndarray, label: np.ndarray, linewidth: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw_overlay(image, prediction, label, linewidth)
