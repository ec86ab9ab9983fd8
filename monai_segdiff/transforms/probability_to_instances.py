# SPDX-License-Identifier: Apache-2.0
"""Separate objects from a foreground probability."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import numpy as np
from monai.config import KeysCollection
from monai.config.type_definitions import NdarrayOrTensor
from monai.transforms import MapTransform, Transform
from monai.transforms.utils_pytorch_numpy_unification import isnan
from monai.utils import TransformBackends, convert_to_dst_type, convert_to_numpy
from scipy import ndimage
from skimage.feature import peak_local_max
from skimage.segmentation import watershed

__all__ = [
    "ProbabilityToInstances",
    "ProbabilityToInstancesD",
    "ProbabilityToInstancesDict",
    "ProbabilityToInstancesd",
]


def _without_small_regions(mask: np.ndarray, min_size: int) -> np.ndarray:
    """A boolean ``mask`` less its face-connected regions of fewer than ``min_size`` pixels."""
    regions, _ = ndimage.label(mask)
    return mask & (np.bincount(regions.ravel()) >= min_size)[regions]


class ProbabilityToInstances(Transform):
    """Turn a foreground probability into an instance map, by a watershed of the distance to the background.

    1. A pixel is foreground if its probability lies strictly above ``threshold``, as in :class:`ProbabilityToMask`.
    2. Regions of fewer than ``min_size`` pixels change sides: first those of the background, then those of the
       foreground. Regions are connected through faces (4 neighbours in 2-D, 6 in 3-D).
    3. Every foreground pixel gets its Euclidean distance to the background in pixels, smoothed by a Gaussian. The edge
       of the image is no background, so an object that it cuts is not treated as a smaller one.
    4. Markers are the local maxima: pixels that nothing within ``min_distance`` exceeds. Equal ones within that
       distance share a marker. A foreground region without a marker gets one where its distance is largest, so no
       region is lost.
    5. A watershed floods the foreground from the markers.

    Touching round objects come apart at their necks. A single object with a waist is cut as well, and so is a long
    slanted one of constant width. The sizes count pixels: the defaults suit nuclei at about 0.5 um per pixel (MoNuSeg
    at 512 x 512). At twice the resolution use twice the distance and sigma and four times the size. In 3-D the voxels
    should be isotropic.

    Args:
        threshold: probability to exceed.
        min_distance: smallest distance between two markers in pixels (the larger of the coordinates' differences), at
            least 1.
        sigma: standard deviation of the Gaussian in pixels, 0 for none.
        min_size: smallest foreground or background region to keep, in pixels; 0 keeps all.

    Raises:
        ValueError: ``min_distance`` is not a whole number above 0, ``min_size`` is not one from 0 on, or ``sigma`` is
            negative or not finite.

    Example:
        >>> probability = torch.zeros(1, 5, 9)
        >>> probability[:, 1:4, 1:4] = probability[:, 1:4, 5:8] = 0.9
        >>> ProbabilityToInstances()(probability)[0, 2]
        tensor([0, 1, 1, 1, 0, 2, 2, 2, 0], dtype=torch.int32)
    """

    backend = [TransformBackends.NUMPY]

    def __init__(self, threshold: float = 0.5, min_distance: int = 2, sigma: float = 1.25, min_size: int = 5) -> None:
        for name, value, low in (("min_distance", min_distance, 1), ("min_size", min_size, 0)):
            if isinstance(value, bool) or not value >= low or int(value) != value:
                raise ValueError(f"{name} is {value!r}, expected a whole number of pixels, at least {low}.")
        if not 0 <= sigma < np.inf:
            raise ValueError(f"sigma is {sigma!r}, expected a number of pixels, at least 0.")
        self.threshold = threshold
        self.min_distance = int(min_distance)
        self.sigma = sigma
        self.min_size = int(min_size)

    def __call__(self, data: NdarrayOrTensor) -> NdarrayOrTensor:
        """Separate the objects of one image.

        Args:
            data: foreground probability, ``[1, H, W]`` or ``[1, H, W, D]``.

        Returns:
            int32 map of the same shape and kind: 0 for background, 1..N for the instances; meta data is kept.

        Raises:
            ValueError: another shape, an empty image, or NaN.
        """
        if data.ndim not in (3, 4) or data.shape[0] != 1 or 0 in data.shape:
            raise ValueError(
                f"the probability has shape {tuple(data.shape)}, expected [1, H, W] or [1, H, W, D], not empty."
            )
        if isnan(data).any():
            raise ValueError("the probability holds NaN, expected numbers from 0 to 1.")
        foreground = convert_to_numpy(data > self.threshold)[0]
        foreground = ~_without_small_regions(~foreground, self.min_size)
        foreground = _without_small_regions(foreground, self.min_size)
        instances = watershed(*self._relief_and_markers(foreground), mask=foreground)
        return convert_to_dst_type(instances[None], data, dtype=np.int32)[0]

    def _relief_and_markers(self, foreground: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What the watershed floods, and the labelled points from which it starts, each ``[*spatial]``."""
        distance = np.zeros(foreground.shape)
        # Without any background there is no distance to it.
        if not foreground.all():
            smooth = ndimage.gaussian_filter(ndimage.distance_transform_edt(foreground), self.sigma)
            distance[foreground] = smooth[foreground]
        # A plateau is one maximum: peak_local_max would thin it out to many, were it given the distance to keep.
        window = np.ones((2 * self.min_distance + 1,) * distance.ndim, dtype=bool)
        peaks = np.zeros(foreground.shape, dtype=bool)
        peaks[tuple(peak_local_max(distance, footprint=window, exclude_border=False).T)] = True
        regions, count = ndimage.label(foreground)
        without_peak = np.setdiff1d(np.arange(1, count + 1), regions[peaks])
        for position in ndimage.maximum_position(distance, regions, without_peak):
            peaks[position] = True
        # Equal peaks that are too close share a marker; inside the foreground, so that regions never share one.
        near = ndimage.maximum_filter(peaks, size=self.min_distance) & foreground
        groups, _ = ndimage.label(near, structure=np.ones((3,) * near.ndim))
        markers = np.zeros(foreground.shape, dtype=np.int32)
        # Two regions may touch at a corner; and the foreground may cut off parts of a group that hold no peak.
        pairs = np.stack([groups[peaks], regions[peaks]])
        markers[peaks] = np.unique(pairs, axis=1, return_inverse=True)[1] + 1
        return -distance, markers


class ProbabilityToInstancesd(MapTransform):
    """Dictionary form of :class:`ProbabilityToInstances`.

    Args:
        keys: items to turn into instance maps.
        threshold: probability to exceed.
        min_distance: smallest distance between two markers in pixels.
        sigma: standard deviation of the Gaussian in pixels.
        min_size: smallest foreground or background region to keep, in pixels.
        allow_missing_keys: skip keys that are absent.
    """

    backend = ProbabilityToInstances.backend

    def __init__(
        self,
        keys: KeysCollection,
        threshold: float = 0.5,
        min_distance: int = 2,
        sigma: float = 1.25,
        min_size: int = 5,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.transform = ProbabilityToInstances(threshold, min_distance, sigma, min_size)

    def __call__(self, data: Mapping[Hashable, NdarrayOrTensor]) -> dict[Hashable, NdarrayOrTensor]:
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = self.transform(result[key])
        return result


ProbabilityToInstancesD = ProbabilityToInstancesDict = ProbabilityToInstancesd
