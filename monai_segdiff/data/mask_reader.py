# SPDX-License-Identifier: Apache-2.0
"""Binary masks from label pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from ..exceptions import ImageError
from .rgb_reader import PictureReader

__all__ = ["MaskReader"]


class MaskReader(PictureReader):
    """Read a label picture as a binary mask: uint8, 1 wherever any colour channel is above 0.

    Takes 0/255 and 0/1 masks, colour masks, palette pictures (by the colours that one sees, so black is background)
    and instance numbers of up to 32 bits. An alpha channel is ignored. JPEG is refused: its compression leaves values
    above 0 around every object.

    Args:
        reverse_indexing: True gives (W, H) arrays, x first, as MONAI's ``PILReader``; False gives (H, W).

    Example:
        >>> load = LoadImaged(keys="label", reader=[MaskReader(), AperioReader()])  # doctest: +SKIP
        >>> load({"label": "labels/a.png"})["label"].unique()  # doctest: +SKIP
        tensor([0., 1.])
    """

    suffixes = (".png", ".tif", ".tiff")
    expected = "a label picture (8-bit grey or colour, or integer instance numbers, png or tif)"

    def convert(self, image: Image.Image, path: Path) -> Image.Image:
        """Give the mask as a picture of mode L that holds 0 and 1.

        Raises:
            ImageError: for a JPEG in disguise, or a mode that holds no integers or colours.
        """
        if image.format == "JPEG":
            raise ImageError(f"{path}: holds JPEG data, whose values are not exact; expected {self.expected}.")
        if image.mode in ("LA", "P", "PA"):
            image = image.convert("RGBA")
        if image.mode == "RGBA":
            image = image.convert("RGB")
        if image.mode not in ("1", "L", "RGB", "I") and not image.mode.startswith("I;16"):
            raise ImageError(f"{path}: has the mode {image.mode}; expected {self.expected}.")
        values = np.asarray(image)
        if values.ndim == 3:
            values = values.max(axis=-1)
        return Image.fromarray((values > 0).astype(np.uint8))
