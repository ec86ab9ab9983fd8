# SPDX-License-Identifier: Apache-2.0
"""A check that an annotation belongs to an image of its size."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

from ..exceptions import AnnotationError

__all__ = ["CheckSameSizeD", "CheckSameSizeDict", "CheckSameSized"]


class CheckSameSized(MapTransform):
    """Refuse items whose spatial size is not that of the image; without this, crops would pair unrelated places.

    Args:
        keys: items to check, channel first.
        image_key: the image.
        allow_missing_keys: skip keys that are absent.

    Raises:
        AnnotationError: when called, if sizes differ; names both files and sizes.
    """

    def __init__(self, keys: KeysCollection, image_key: Hashable = "image", allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.image_key = image_key

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        image = data[self.image_key]
        for key in self.key_iterator(dict(data)):
            found, expected = list(data[key].shape[1:]), list(image.shape[1:])
            if found != expected:
                files = [getattr(item, "meta", {}).get("filename_or_obj", "?") for item in (data[key], image)]
                raise AnnotationError(f"{files[0]}: has size {found}, expected {expected} as its image {files[1]}.")
        return dict(data)


CheckSameSizeD = CheckSameSizeDict = CheckSameSized
