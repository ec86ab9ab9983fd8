# SPDX-License-Identifier: Apache-2.0
"""Picture of a prediction and of how unsure it is."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image

from ..data.atomic_write import atomic_write
from .overlay import FALSE_COLOR, MISSED_COLOR, PREDICTION_COLOR, draw_overlay

__all__ = ["STATISTIC_LIMITS", "draw_uncertainty"]

# Upper ends; all begin at 0.
STATISTIC_LIMITS = {
    "probability": 1.0,
    "standard_deviation": 0.5,
    "entropy": math.log(2),
    "mutual_information": math.log(2),
}
COLORS = colormaps["viridis"]
IN_NATS = ("entropy", "mutual_information")
_ROUND_OFF = 1e-3
_LEAST_PANEL, _LARGEST_PANEL = 256, 1024
# Narrower ones have no room for their title.
_LEAST_SLOT = 300
# A power of two, so that sizes in pixels stay whole numbers when they go through inches.
_DPI = 64


def draw_uncertainty(
    path: str | os.PathLike[str],
    image: np.ndarray,
    statistics: Mapping[str, np.ndarray],
    truth: np.ndarray | None = None,
    threshold: float = 0.5,
) -> None:
    """Write a PNG with the image and its maps of probability, standard deviation, entropy and mutual information.

    The first panel shows the outline of the prediction in yellow and, with the truth, the pixels that are wrong: false
    foreground blue, missed foreground vermilion. The colours of the maps (viridis) have fixed ranges, so that pictures
    can be compared: probability 0..1, standard deviation 0..0.5, entropy and mutual information 0..ln 2 nats, each the
    largest possible value. A pixel of the image is a pixel of each panel; images whose longer side is at most 128
    are enlarged by a whole number, those above 1024 are shrunk to 1024. Several mask channels make one row each.

    Args:
        path: PNG file to write; its folder is made.
        image: channel-first picture, rows before columns, ``[1, H, W]`` or ``[3, H, W]``, values 0..255.
        statistics: ``probability``, ``standard_deviation``, ``entropy`` and ``mutual_information``, each ``[C, H, W]``;
            others are ignored. An opened ``.npz`` of :class:`monai_segdiff.SaveUncertainty` will do.
        truth: class indices 0..C, ``[H, W]`` or ``[1, H, W]``, or None. With one channel: a binary mask.
        threshold: probability that foreground exceeds; of several classes the most probable one is predicted, as by
            :class:`monai_segdiff.ProbabilityToMask`.

    Raises:
        ValueError: a statistic is missing or outside its range, shapes do not fit, the truth has other values, or the
            image has NaN.

    Example:
        >>> with np.load("output/slide_uncertainty.npz") as statistics:  # doctest: +SKIP
        ...     draw_uncertainty("slide.png", picture, statistics)
    """
    maps = _maps(statistics)
    probability = maps["probability"]
    size = probability.shape[1:]
    image = np.array(image, dtype=np.float32, order="C")
    if image.shape[-2:] != size:
        raise ValueError(f"statistics have the size {size}, expected that of the image, {image.shape[-2:]}.")
    true_class = None if truth is None else _classes(truth, len(probability), size)
    predicted_class = np.where(probability.max(0) > threshold, probability.argmax(0) + 1, 0)
    rows = []
    for row in range(len(probability)):
        predicted = predicted_class == row + 1
        # Wide enough to be seen once a large image is shrunk.
        picture = draw_overlay(image, predicted, linewidth=math.ceil(max(size) / 500))
        if true_class is not None:
            true = true_class == row + 1
            picture[predicted & ~true] = FALSE_COLOR
            picture[true & ~predicted] = MISSED_COLOR
        rows.append((picture, {name: values[row] for name, values in maps.items()}))
    canvas = _draw(rows, with_truth=truth is not None)
    with atomic_write(path) as temporary:
        canvas.print_png(temporary)


def _maps(statistics: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    missing = [name for name in STATISTIC_LIMITS if name not in statistics]
    if missing:
        raise ValueError(f"statistics lack {missing}, expected {list(STATISTIC_LIMITS)}.")
    maps = {name: np.asarray(statistics[name], dtype=np.float32) for name in STATISTIC_LIMITS}
    shape = maps["probability"].shape
    for name, values in maps.items():
        if len(shape) != 3 or values.shape != shape or not values.size:
            raise ValueError(f"{name} has shape {values.shape} and probability {shape}, expected both [C, H, W].")
        # NaN fails this as well.
        if not ((values >= -_ROUND_OFF) & (values <= STATISTIC_LIMITS[name] + _ROUND_OFF)).all():
            raise ValueError(
                f"{name} has values from {values.min():g} to {values.max():g}, "
                f"expected 0 to {STATISTIC_LIMITS[name]:.4g}."
            )
    return maps


def _classes(truth: np.ndarray, channels: int, size: tuple[int, ...]) -> np.ndarray:
    classes = np.asarray(truth)
    if classes.shape not in (size, (1, *size)):
        raise ValueError(f"truth has shape {classes.shape}, expected {size} or {(1, *size)}.")
    if not np.isin(classes, range(channels + 1)).all():
        raise ValueError(f"truth has values from {classes.min()} to {classes.max()}, expected classes 0..{channels}.")
    return classes.reshape(size)


def _draw(rows: Sequence[tuple[np.ndarray, Mapping[str, np.ndarray]]], with_truth: bool) -> FigureCanvasAgg:
    """Lay out one row for each class, in whole pixels."""
    height, width = _panel_size(rows[0][0].shape[:2])
    slot = max(width, _LEAST_SLOT)
    font = max(14, slot // 36)  # larger panels are looked at from further away
    gap, title_height, bar_height = 3 * font, 2 * font, 4 * font
    total_width = gap + (len(STATISTIC_LIMITS) + 1) * (slot + gap)
    total_height = len(rows) * (title_height + height + bar_height)
    figure = Figure(figsize=(total_width / _DPI, total_height / _DPI), dpi=_DPI)
    canvas = FigureCanvasAgg(figure)
    points = font * 72 / _DPI
    bottom = total_height
    for number, (picture, maps) in enumerate(rows, start=1):
        bottom -= title_height + height
        panels = {"image" if len(rows) == 1 else f"class {number}": picture, **maps}
        for column, (name, values) in enumerate(panels.items()):
            left = gap + column * (slot + gap)
            middle = (left + slot / 2) / total_width
            pixels = _resized(values, height, width)
            title = name.replace("_", " ") + (" (nats)" if name in IN_NATS else "")
            figure.text(middle, (bottom + height + font / 2) / total_height, title, ha="center", fontsize=points)
            if column == 0:
                _add_legend(figure, (middle, (bottom - font / 2) / total_height), points, with_truth)
            else:
                limit = STATISTIC_LIMITS[name]
                pixels = COLORS(pixels / limit, bytes=True)
                box = (
                    left / total_width,
                    (bottom - 3 * font / 2) / total_height,
                    slot / total_width,
                    font / total_height,
                )
                _add_bar(figure, box, limit, points)
            # Not `imshow`, which samples anew where the axes do not lie on whole pixels.
            figure.figimage(pixels, left + (slot - width) // 2, bottom, origin="upper")
        bottom -= bar_height
    return canvas


def _panel_size(size: tuple[int, ...]) -> tuple[int, ...]:
    longest = max(size)
    zoom = _LARGEST_PANEL / longest if longest > _LARGEST_PANEL else max(1, _LEAST_PANEL // longest)
    return tuple(max(1, round(side * zoom)) for side in size)


def _resized(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """Repeat pixels, or take their mean."""
    method = Image.Resampling.BOX if width < values.shape[1] or height < values.shape[0] else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(values).resize((width, height), method))


def _add_legend(figure: Figure, place: tuple[float, float], points: float, with_truth: bool) -> None:
    entries = {"prediction": PREDICTION_COLOR}
    if with_truth:
        entries |= {"false": FALSE_COLOR, "missed": MISSED_COLOR}
    patches = [
        Patch(facecolor=(color[0] / 255, color[1] / 255, color[2] / 255), edgecolor="black", linewidth=0.5, label=label)
        for label, color in entries.items()
    ]
    figure.legend(
        handles=patches,
        loc="upper center",
        bbox_to_anchor=place,
        borderaxespad=0,
        borderpad=0,
        ncols=len(patches),
        frameon=False,
        fontsize=points,
        handlelength=1,
        handletextpad=0.4,
        columnspacing=1,
    )


def _add_bar(figure: Figure, box: tuple[float, float, float, float], limit: float, points: float) -> None:
    ticks = np.linspace(0, limit, 3)
    colors = ScalarMappable(Normalize(0, limit), COLORS)
    bar = figure.colorbar(colors, cax=figure.add_axes(box), orientation="horizontal", ticks=ticks)
    bar.set_ticklabels([f"{tick:.2g}" for tick in ticks], fontsize=points)
