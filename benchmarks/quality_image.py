# SPDX-License-Identifier: Apache-2.0
"""An image and its truth on the grid on which quality is scored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from monai.transforms import Resized

from .bundle import Bundle

__all__ = ["QualityImage"]


class QualityImage(NamedTuple):
    """One image on a square grid, on the CPU, axes as MONAI loads pictures, x first.

    Attributes:
        picture: float32 ``[3, size, size]`` in 0..255, resized by area.
        truth: boolean ``[1, size, size]``, resized by nearest neighbour.
        instances: ``[1, size, size]``, 0 for background, resized likewise.
    """

    picture: torch.Tensor
    truth: torch.Tensor
    instances: torch.Tensor

    @classmethod
    def load(cls, bundle: Bundle, entry: Mapping[str, str], size: int) -> QualityImage:
        """Read the files of an image as the evaluation of a bundle reads them.

        Args:
            bundle: says how files are read.
            entry: paths of ``image``, ``label`` and ``instances``.
            size: of the grid, whatever the bundle's ``image_scale``.

        Raises:
            ImageError: the picture or its objects cannot be read.
            AnnotationError: the mask cannot be read, or files have different sizes.
        """
        keys = ("image", "label", "instances")
        # All but its last step, which resizes to the bundle's scale.
        steps = [*bundle.value("load_image_and_label")[:-1], *bundle.value("load_instances")]
        steps.append(Resized(keys, (size, size), mode=("area", "nearest-exact", "nearest-exact")))
        data = dict(entry)
        for step in steps:  # MONAI's Compose would hide the types of errors
            data = step(data)
        picture, label, instances = (torch.as_tensor(data[key]).as_subclass(torch.Tensor) for key in keys)
        return cls(picture, label > 0, instances)
