# SPDX-License-Identifier: Apache-2.0
"""Nuclei as polygons for MONAI Label's pathology app; goes into its folder ``lib/infers``."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from lib.transforms import LoadImagePatchd
from monai.config import KeysCollection
from monai.transforms import LoadImaged, MapTransform, SaveImaged
from monai.utils import convert_to_numpy
from monailabel.interfaces.tasks.infer_v2 import InferType
from monailabel.tasks.infer.bundle import BundleConstants, BundleInferTask
from monailabel.transform.post import FindContoursd
from monailabel.transform.writer import PolygonWriter
from scipy.ndimage import binary_fill_holes, maximum_filter


class ProbabilityConstants(BundleConstants):
    """Names of the bundle's entries, with the steps to a probability in place of those to a mask."""

    def key_postprocessing(self) -> Sequence[str]:
        """Return the entry that puts the probability back onto the grid of the image."""
        return ["restore"]


class SeparateTouchingd(MapTransform):
    """Turn an instance map ``[1, W, H]`` into a mask ``[W, H]`` in which no two instances touch.

    Where two meet, the one of the smaller number loses its outermost pixels. Holes are filled, since the contour of a
    hole would be taken for that of a nucleus.

    Args:
        keys: items to change.
    """

    def __init__(self, keys: KeysCollection) -> None:
        super().__init__(keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with masks of uint8."""
        result = dict(data)
        for key in self.key_iterator(result):
            instances = convert_to_numpy(result[key])[0]
            apart = (instances > 0) & (maximum_filter(instances, size=3) == instances)
            result[key] = binary_fill_holes(apart).astype(np.uint8)
        return result


class SegDiffNuclei(BundleInferTask):
    """Runs a nuclei bundle of monai_segdiff on pictures and on tiles of slides.

    Args:
        path: folder of the bundle.
        conf: settings of the app.
    """

    def __init__(self, path: str, conf: dict[str, str]) -> None:
        super().__init__(
            path,
            conf,
            const=ProbabilityConstants(),
            type=InferType.SEGMENTATION,
            add_post_restore=False,
            pre_filter=[LoadImaged],
            post_filter=[SaveImaged],
            load_strict=True,
        )
        if not self.is_valid():
            raise FileNotFoundError(f"{path}: holds no bundle with configs and models/model.pt.")
        # MONAI Label writes it into XML as it is, where a bare ampersand ends the parsing.
        self.description = self.description.replace("&", " and ")
        self.label_colors = dict.fromkeys(self.labels, (0, 114, 178))
        # Without a GPU, the default ends in a division by zero for slides.
        self._config |= {"label_colors": self.label_colors, "multi_gpu": torch.cuda.device_count() > 1}

    def pre_transforms(self, data: dict[str, Any] | None = None) -> Sequence[Callable]:
        """Return the bundle's steps after a loader that knows tiles of slides."""
        return [LoadImagePatchd(keys="image", mode="RGB", dtype=np.uint8, padding=False), *super().pre_transforms(data)]

    def post_transforms(self, data: dict[str, Any] | None = None) -> Sequence[Callable]:
        """Return the bundle's steps to a probability and to instances, and those to polygons."""
        return [
            *super().post_transforms(data),
            self.bundle_config.get_parsed_content("make_instances", instantiate=True),
            SeparateTouchingd(keys=self.key_pred),
            FindContoursd(keys=self.key_pred, labels=self.labels),
        ]

    def info(self) -> dict[str, Any]:
        """Return the description for clients; QuPath lists models marked so."""
        return {**super().info(), "pathology": True}

    def writer(self, data: dict[str, Any], extension: str | None = None, dtype: str | None = None) -> tuple[Any, Any]:
        """Write the polygons in the format of the request."""
        return PolygonWriter(label=self.output_label_key, json=self.output_json_key)(data)
