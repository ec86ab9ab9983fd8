# SPDX-License-Identifier: Apache-2.0
"""How well the surfaces of the classes of two label maps agree."""

from __future__ import annotations

import math
import warnings
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from monai.data.utils import affine_to_spacing
from monai.metrics.hausdorff_distance import compute_hausdorff_distance
from monai.metrics.surface_dice import compute_surface_dice

from ...metrics.boundary_iou import boundary_iou_counts, boundary_iou_of_counts
from .class_scorer import ClassScorer, defined_scores
from .image_scorer import Measurement

__all__ = ["SurfaceScorer"]


class SurfaceScorer(ClassScorer):
    """Surface Dice, 95 % Hausdorff distance and boundary IoU of each foreground class, and their means.

    ``surface_dice`` (NSD) is the share of both surfaces that lies within the tolerance of the other, ``hd95`` the
    larger of the two 95 % percentiles of the distances between them, both as MONAI computes them. ``boundary_iou`` is
    :func:`monai_segdiff.metrics.compute_boundary_iou`, of volumes in millimetres, of 2-D images in pixels, as
    published; it is the one that is pooled as well. Distances are in the unit of the prediction's affine, mm for NIfTI;
    images without a resolution have pixels of size 1.

    A class that only the prediction or only the truth has scores 0, and its distance is the image's diagonal, which no
    distance exceeds, so that a missed class worsens the mean. One that neither has is left out.

    Args:
        class_names: names of the classes 1, 2, ..; 0 is background.
        tolerance: distance within which surfaces agree, in mm, at least 0.
        relative_distance: width of the bands of the boundary IoU, as a share of the image's diagonal.
        pred_key: key of the predicted label map, a ``MetaTensor`` ``[1, *spatial]`` with its affine.
        label_key: key of the true label map, of the same spacing if it has one.

    Raises:
        ValueError: no name, or the same twice, or a tolerance below 0.

    Example:
        >>> labels = MetaTensor(torch.eye(8, dtype=torch.int64)[None])
        >>> SurfaceScorer(["line"]).measure({"pred": labels, "label": labels}).scores["hd95"]
        0.0
    """

    titles = {"surface_dice": "NSD", "hd95": "HD95", "boundary_iou": "BIoU"}

    def __init__(
        self,
        class_names: Sequence[str],
        tolerance: float = 1.0,
        relative_distance: float = 0.02,
        pred_key: str = "pred",
        label_key: str = "label",
    ) -> None:
        super().__init__(class_names, pred_key, label_key)
        if not 0 <= tolerance < math.inf:
            raise ValueError(f"tolerance is {tolerance!r}, expected a number of at least 0.")
        self.tolerance = tolerance
        self.relative_distance = relative_distance

    def measure(self, item: Mapping[Hashable, Any]) -> Measurement:
        """Compare the surfaces; the counts are those of the boundary IoU, class by class."""
        masks = self._masks(item)
        shape = masks[0][0].shape
        spacing = self._spacing(item, len(shape))
        diagonal = math.hypot(*np.multiply(shape, spacing))
        distances = np.array([self._distances(*pair, spacing, diagonal) for pair in masks])
        band_spacing = spacing if len(shape) == 3 else None
        counts = np.concatenate(
            [
                boundary_iou_counts(*pair, relative_distance=self.relative_distance, spacing=band_spacing)
                for pair in masks
            ]
        )
        scores = self._with_means({"surface_dice": distances[:, 0], "hd95": distances[:, 1]})
        return Measurement(defined_scores(scores | self.pool(*counts)), counts)

    def pool(self, *counts: np.ndarray) -> dict[str, np.ndarray]:
        """Boundary IoU of summed counts."""
        return self._with_means({"boundary_iou": boundary_iou_of_counts(np.stack(counts[::2]), np.stack(counts[1::2]))})

    def _distances(
        self, predicted: np.ndarray, truth: np.ndarray, spacing: list[float], diagonal: float
    ) -> tuple[float, float]:
        """Surface Dice and 95 % Hausdorff distance of one class."""
        if not (predicted.any() and truth.any()):
            return (0.0, diagonal) if predicted.any() or truth.any() else (math.nan, math.nan)
        options: dict[str, Any] = {"include_background": True, "spacing": spacing}
        options |= {"y_pred": torch.from_numpy(predicted)[None, None], "y": torch.from_numpy(truth)[None, None]}
        with warnings.catch_warnings():
            # MONAI 1.6 gives its own function an argument that it has deprecated.
            warnings.filterwarnings("ignore", ".*always_return_as_numpy", FutureWarning)
            dice = compute_surface_dice(class_thresholds=[self.tolerance], **options)
            distance = compute_hausdorff_distance(percentile=95, **options)
        return dice.item(), distance.item()

    def _spacing(self, item: Mapping[Hashable, Any], spatial_dims: int) -> list[float]:
        maps = {key: item[key] for key in (self.pred_key, self.label_key) if isinstance(item[key], MetaTensor)}
        # Not `pixdim`, which has three numbers for a picture.
        found = {key: affine_to_spacing(value.affine.cpu(), spatial_dims).tolist() for key, value in maps.items()}
        if self.pred_key not in found:
            raise ValueError(f"{self.pred_key} is a plain tensor, expected a MetaTensor, whose affine has the spacing.")
        spacing = found[self.pred_key]
        if not np.allclose(spacing, found.get(self.label_key, spacing), rtol=1e-3):
            raise ValueError(f"{self.pred_key} and {self.label_key} have the spacing {found}, expected the same.")
        return spacing
