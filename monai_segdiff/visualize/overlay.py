# SPDX-License-Identifier: Apache-2.0
"""Outlines of found, missed and false objects on a picture."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.ndimage import binary_dilation
from skimage.measure import label as label_components
from skimage.segmentation import find_boundaries

__all__ = ["FALSE_COLOR", "MISSED_COLOR", "PREDICTION_COLOR", "TRUE_COLOR", "draw_overlay"]

# From the palette of Okabe and Ito, whose colours stay apart with all common forms of colour blindness.
TRUE_COLOR = (0, 158, 115)  # bluish green
MISSED_COLOR = (213, 94, 0)  # vermilion
FALSE_COLOR = (0, 114, 178)  # blue
PREDICTION_COLOR = (240, 228, 66)  # yellow

_SHARE = 0.5


def _array(value: Any) -> np.ndarray:
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        # numpy has no bfloat16
        value = value.float().numpy() if value.is_floating_point() else value.numpy()
    return np.asarray(value)


def _picture(image: Any) -> np.ndarray:
    """The image as uint8 [H, W, 3]."""
    array = _array(image)
    if array.ndim != 3 or array.shape[0] not in (1, 3):
        raise ValueError(f"image has shape {array.shape}, expected channel-first [1, H, W] or [3, H, W].")
    if not np.isfinite(array).all():
        raise ValueError("image holds NaN or infinity, expected values in 0..255.")
    rounded = array if array.dtype == np.uint8 else np.clip(np.rint(array), 0, 255).astype(np.uint8)
    # A copy in any case: it is drawn on.
    return np.array(np.broadcast_to(rounded, (3, *rounded.shape[1:])).transpose(1, 2, 0), order="C")


def _mask(name: str, value: Any, size: tuple[int, ...]) -> np.ndarray:
    array = _array(value)
    if array.ndim == 3 and array.shape[0] == 1:
        array = array[0]
    if array.shape != size:
        raise ValueError(f"{name} has shape {array.shape}, expected {size} or {(1, *size)} to fit the image.")
    if not np.isin(array, (0, 1)).all():
        raise ValueError(f"{name} is not binary, expected only 0 and 1.")
    return array.astype(bool)


def _split_components(mask: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of the components of ``mask`` at least half covered by ``other``, and of those less than half covered."""
    components = label_components(mask, connectivity=2)
    count = int(components.max()) + 1
    area = np.bincount(components.ravel(), minlength=count)
    shared = np.bincount(components[other], minlength=count)
    covered = (shared >= _SHARE * area)[components] & mask
    return covered, mask & ~covered


def _outline(mask: np.ndarray, linewidth: int) -> np.ndarray:
    """The outermost ``linewidth`` pixels inside ``mask``; the image's edge counts as background."""
    padded = np.pad(mask, 1)
    line = find_boundaries(padded, mode="inner")
    if linewidth > 1:
        line = binary_dilation(line, iterations=linewidth - 1, mask=padded)
    return line[1:-1, 1:-1]


def draw_overlay(image: Any, prediction: Any, label: Any = None, linewidth: int = 1) -> np.ndarray:
    """Draw outlines of the predicted objects on the image, coloured by whether they are right.

    Objects are connected components (8 neighbours). With a label, a predicted object at least half of whose area the
    label covers is *true* (green), one less covered is *false* (blue), and an object of the label less than half
    covered by the prediction is *missed* (vermilion). Without a label all outlines are yellow. Lines lie inside their
    objects; where they meet, true is drawn over false and false over missed.

    Args:
        image: channel-first picture, rows before columns, shape [1, H, W] or [3, H, W], values in 0..255 (values
            outside are clipped), array or tensor of any numeric type.
        prediction: binary mask, shape [H, W] or [1, H, W].
        label: binary ground truth of the same size, or None.
        linewidth: width of the lines in pixels, at least 1.

    Returns:
        The picture, uint8, shape [H, W, 3], RGB.

    Raises:
        ValueError: shapes that do not fit, masks that are not binary, an image with NaN, or a line width below 1.

    Example:
        >>> mask = np.zeros((8, 8))
        >>> mask[2:6, 2:6] = 1
        >>> draw_overlay(np.zeros((3, 8, 8)), mask, mask)[2, 2].tolist()
        [0, 158, 115]
    """
    if linewidth < 1:
        raise ValueError(f"linewidth is {linewidth}, expected at least 1 pixel.")
    picture = _picture(image)
    size = picture.shape[:2]
    predicted = _mask("prediction", prediction, size)
    if label is None:
        picture[_outline(predicted, linewidth)] = PREDICTION_COLOR
        return picture
    truth = _mask("label", label, size)
    true, false = _split_components(predicted, truth)
    _, missed = _split_components(truth, predicted)
    for part, color in ((missed, MISSED_COLOR), (false, FALSE_COLOR), (true, TRUE_COLOR)):
        picture[_outline(part, linewidth)] = color
    return picture
