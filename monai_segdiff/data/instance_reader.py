# SPDX-License-Identifier: Apache-2.0
"""Instance numbers from label pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from ..exceptions import ImageError
from .rgb_reader import PictureReader

__all__ = ["InstanceReader"]


class InstanceReader(PictureReader):
    """Read a grey picture of 8, 16 or 32 bits as instance numbers: int32, 0 for background.

    Args:
        reverse_indexing: True gives (W, H) arrays, x first, as MONAI's ``PILReader``; False gives (H, W).

    Example:
        >>> reader = [InstanceReader(), AperioReader(mode="instance")]
        >>> load = LoadImaged(keys="instances", reader=reader)  # doctest: +SKIP
        >>> int(load({"instances": "instances/a.tif"})["instances"].max())  # doctest: +SKIP
        617
    """

    suffixes = (".png", ".tif", ".tiff")
    expected = "a grey picture of instance numbers (8, 16 or 32 bits, png or tif)"

    def convert(self, image: Image.Image, path: Path) -> Image.Image:
        """Give the numbers as a picture of mode I.

        Raises:
            ImageError: for colours, floating point or negative numbers, or a mask of 0 and 255, in which all objects
                have one number.
        """
        if image.mode not in ("L", "I") and not image.mode.startswith("I;16"):
            raise ImageError(f"{path}: has the mode {image.mode}; expected {self.expected}.")
        values = np.asarray(image).astype(np.int32)
        if values.min() < 0:
            raise ImageError(f"{path}: holds {values.min()}; expected {self.expected}.")
        if image.mode == "L" and set(np.unique(values)) == {0, 255}:
            raise ImageError(f"{path}: holds a mask of 0 and 255; expected {self.expected}.")
        return Image.fromarray(values)
