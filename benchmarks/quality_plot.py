# SPDX-License-Identifier: Apache-2.0
"""Picture of the best, the median and the worst image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from monai_segdiff import atomic_write, draw_overlay

from .quality_image import QualityImage

__all__ = ["choose_images", "draw_quality"]


def choose_images(dice: Sequence[float]) -> dict[int, str]:
    """Say which images are the best, the median (of an even number the better one) and the worst.

    Args:
        dice: of each image, at least one.

    Returns:
        What to call an image, by its number; less than three of them if there are less than three images.

    Example:
        >>> choose_images([0.2, 0.9, 0.4, 0.5])
        {1: 'best', 3: 'median', 0: 'worst'}
    """
    order = sorted(range(len(dice)), key=lambda index: -dice[index])
    chosen = ((order[0], "best"), (order[-1], "worst"), (order[(len(order) - 1) // 2], "median"))
    called: dict[int, str] = {}
    for index, name in chosen:
        called.setdefault(index, name)
    return {index: called[index] for index in order if index in called}


def draw_quality(path: Path, panels: Sequence[tuple[str, QualityImage, torch.Tensor]]) -> Figure:
    """Draw outlines of found, missed and false objects, colours as :func:`monai_segdiff.draw_overlay`.

    Args:
        path: PNG file to write.
        panels: of each image the title, the image, and the mask, ``[1, H, W]``, axes as the image's.

    Returns:
        The figure.
    """
    figure = Figure(figsize=(5 * len(panels), 6), dpi=200, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    for axes, (title, image, mask) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        # MONAI loads pictures x first.
        picture, predicted, truth = (part.transpose(-1, -2) for part in (image.picture, mask, image.truth))
        axes.imshow(draw_overlay(picture, predicted, truth), interpolation="nearest")
        axes.set_title(title)
        axes.set_axis_off()
    figure.supxlabel("green: found, orange: missed, blue: false", fontsize="medium")
    with atomic_write(path) as temporary:
        canvas.print_png(temporary)
    return figure
