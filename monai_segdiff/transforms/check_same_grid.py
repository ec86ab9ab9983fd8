# SPDX-License-Identifier: Apache-2.0
"""A check that an annotation lies on the voxels of its image."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from monai.config import KeysCollection

from ..data.voxel_grid import grid_distance
from ..exceptions import AnnotationError
from .check_same_size import CheckSameSized

__all__ = ["CheckSameGridD", "CheckSameGridDict", "CheckSameGridd"]


class CheckSameGridd(CheckSameSized):
    """Refuse items that have not the size or not the affine of the image, and give the others its affine exactly.

    Without the first, voxels of unrelated places would be paired. Without the second, a difference by rounding could
    make resampling treat the two in different ways.

    Args:
        keys: items to check, ``MetaTensor`` [C, X, Y, Z].
        image_key: the image.
        tolerance: how far apart the two grids may be, at most, in voxels of the image; see
            :func:`~monai_segdiff.data.voxel_grid.grid_distance`.
        allow_missing_keys: skip keys that are absent.

    Raises:
        AnnotationError: when called, if sizes or affines differ; names both files and what was found.

    Example:
        >>> CheckSameGridd(keys="label")({"image": image, "label": label})  # doctest: +SKIP
    """

    def __init__(
        self,
        keys: KeysCollection,
        image_key: Hashable = "image",
        tolerance: float = 0.1,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, image_key, allow_missing_keys)
        self.tolerance = tolerance

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result: dict[Hashable, Any] = {**super().__call__(data)}
        image = result[self.image_key]
        for key in self.key_iterator(result):
            item = result[key]
            distance = grid_distance(image.affine.numpy(), item.affine.numpy(), image.shape[1:])
            if not distance <= self.tolerance:
                names = [tensor.meta.get("filename_or_obj", "?") for tensor in (item, image)]
                raise AnnotationError(
                    f"{names[0]}: its voxels lie up to {distance:.3g} voxels beside those of its image {names[1]} "
                    f"(affines {item.affine.tolist()} and {image.affine.tolist()}); expected at most {self.tolerance}."
                )
            result[key] = item.clone()
            result[key].affine = image.affine
        return result


CheckSameGridD = CheckSameGridDict = CheckSameGridd
