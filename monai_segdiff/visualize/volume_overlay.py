# SPDX-License-Identifier: Apache-2.0
"""Outlines of the classes of a volume on three of its slices."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from skimage.measure import find_contours

from ..data.atomic_write import atomic_write
from .overlay import _array

__all__ = ["draw_volume_overlay"]

# From the palette of Okabe and Ito, without those that are lost on a dark picture.
CLASS_COLORS = ("#E69F00", "#56B4E9", "#CC79A7", "#009E73", "#F0E442", "#D55E00")
_GREY_PERCENTILES = (1, 99)


def draw_volume_overlay(
    path: str | os.PathLike[str],
    image: Any,
    prediction: Any,
    label: Any = None,
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
    linewidth: float = 1,
) -> None:
    """Write a PNG of three orthogonal slices of a volume, with the outlines of the classes in their colours.

    Lines of the prediction are solid, those of the label dashed and drawn above. Along each axis the slice is that of
    the median voxel of the label's foreground, so that it cuts the object; without any, of the prediction's; without
    either, the middle one. Grey runs from the 1st to the 99th percentile of the volume. Of the two axes of a slice, the
    first runs to the right, the second upwards, at their true proportions.

    Args:
        path: PNG file to write; its folder is made.
        image: volume of any range, array or tensor ``[1, H, W, D]``.
        prediction: classes 0, 1, .., ``[1, H, W, D]`` or ``[H, W, D]``; 0 is background.
        label: true classes, of the same size, or None.
        spacing: size of a voxel along each axis.
        linewidth: width of the lines in points.

    Raises:
        ValueError: shapes that do not fit, an image with NaN, or classes that are not whole numbers of at least 0.

    Example:
        >>> draw_volume_overlay("scan.png", volume, prediction, label, spacing=(1, 1, 2.5))  # doctest: +SKIP
    """
    volume = _array(image)
    if volume.ndim != 4 or volume.shape[0] != 1 or not volume.size:
        raise ValueError(f"image has shape {volume.shape}, expected [1, H, W, D], not empty.")
    if not np.isfinite(volume).all():
        raise ValueError("image holds NaN or infinity, expected finite numbers.")
    maps = {"prediction": _classes("prediction", prediction, volume.shape)}
    if label is not None:
        maps["label"] = _classes("label", label, volume.shape)
    canvas = FigureCanvasAgg(_figure(volume[0].astype(np.float64), maps, spacing, linewidth))
    with atomic_write(path) as temporary:
        canvas.print_png(temporary)


def _classes(name: str, value: Any, shape: tuple[int, ...]) -> np.ndarray:
    array = _array(value)
    if array.shape not in (shape, shape[1:]):
        raise ValueError(f"{name} has shape {array.shape}, expected {shape} or {shape[1:]} to fit the image.")
    # NaN fails this as well.
    if not ((array >= 0) & (array % 1 == 0)).all():
        raise ValueError(f"{name} has values from {array.min():g} to {array.max():g}, expected classes 0, 1, ..")
    return array.reshape(shape[1:]).astype(np.int64)


def _place(maps: dict[str, np.ndarray], shape: tuple[int, ...]) -> list[int]:
    """Index of the slice along each axis."""
    for classes in reversed(maps.values()):
        if classes.any():
            return [int(np.sort(found)[len(found) // 2]) for found in np.nonzero(classes)]
    return [size // 2 for size in shape]


def _figure(volume: np.ndarray, maps: dict[str, np.ndarray], spacing: Sequence[float], linewidth: float) -> Figure:
    low, high = np.percentile(volume, _GREY_PERCENTILES)
    figure = Figure(figsize=(10.5, 4), dpi=100, layout="constrained")
    for axis, (axes, index) in enumerate(zip(figure.subplots(1, 3), _place(maps, volume.shape), strict=True)):
        right, up = (other for other in range(3) if other != axis)
        # `imshow` wants rows first.
        axes.imshow(
            volume.take(index, axis).T,
            cmap="gray",
            vmin=low,
            vmax=high if high > low else low + 1,
            origin="lower",
            aspect=spacing[up] / spacing[right],
        )
        for name, classes in maps.items():
            plane = np.pad(classes.take(index, axis), 1)
            for number in np.unique(plane[plane > 0]):
                for line in find_contours(plane == number, 0.5):
                    axes.plot(*(line.T - 1), color=_color(number), linewidth=linewidth, linestyle=_style(name))
        axes.set_title(f"slice {index} of axis {axis}")
        axes.set_axis_off()
    numbers = np.unique(np.concatenate([np.unique(classes[classes > 0]) for classes in maps.values()]))
    handles = [Line2D([], [], color=_color(number), label=f"class {number}") for number in numbers]
    handles += [Line2D([], [], color="black", linestyle=_style(name), label=name) for name in maps]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    return figure


def _color(number: int) -> str:
    return CLASS_COLORS[(number - 1) % len(CLASS_COLORS)]


def _style(name: str) -> Literal["-", "--"]:
    return "--" if name == "label" else "-"
