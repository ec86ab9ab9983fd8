# SPDX-License-Identifier: Apache-2.0
"""What a predictor gives back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from .io.dicom_series import DicomSeries

__all__ = ["Prediction", "Provenance"]


@dataclass(frozen=True)
class Provenance:
    """What a prediction was made by: enough to make it again.

    Attributes:
        bundle: name of the bundle's folder.
        bundle_version: version in the bundle's metadata.
        weights_sha256: SHA-256 of the file of the weights.
        package_version: version of monai_segdiff.
        torch_version: version of PyTorch.
        device: where it ran, ``"cpu"`` or ``"cuda:0"``; results may differ in the last bits from device to device.
        config_sha256: SHA-256 of the bundle's ``configs/inference.json``, which holds all other settings.
        settings: of the sampling: ``num_inference_steps``, ``num_generations``, ``max_batch`` (None: the device's own).
        seed: start of all random streams.
    """

    bundle: str
    bundle_version: str
    weights_sha256: str
    config_sha256: str
    package_version: str
    torch_version: str
    device: str
    settings: Mapping[str, Any]
    seed: int


@dataclass(frozen=True, eq=False)
class Prediction:
    """A segmented image, on the grid of the image.

    The spatial axes are those of what was given: ``[H, W]`` (rows first) for picture files, PIL pictures and arrays,
    ``[X, Y, Z]`` for volumes, and as they came for tensors (of pictures ``[W, H]``). The arrays cannot be written to.

    Attributes:
        mask: class indices, uint8 ``[*spatial]``; 0 is background.
        probability: float32 ``[C, *spatial]`` in [0, 1]: of the foreground (C = 1), or of all classes, the background
            first.
        uncertainty: predictive entropy of the probability in nats, float32 ``[*spatial]``: 0 where the model is sure,
            ln 2 (of K classes ln K) where it knows nothing.
        affine: voxel to world (RAS, mm), float64 ``[4, 4]``; None for pictures.
        spacing: size of a voxel in mm, one number an axis; None for pictures.
        labels: names of the classes in ``mask``, without the background.
        rows_first: whether the axes are ``[H, W]``, or x comes first.
        source: absolute path of the image; None if it came from memory.
        provenance: what made it.
        meta: metadata of the image as MONAI read it, for MONAI's writers.
        series: the DICOM series that was read, for DICOM-SEG; None of anything else.
    """

    mask: np.ndarray
    probability: np.ndarray
    uncertainty: np.ndarray
    affine: np.ndarray | None
    spacing: tuple[float, ...] | None
    labels: Mapping[int, str]
    rows_first: bool
    source: str | None
    provenance: Provenance
    meta: Mapping[str, Any] = field(default_factory=dict, repr=False)
    series: DicomSeries | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for array in (self.mask, self.probability, self.uncertainty, self.affine):
            if array is not None:
                array.setflags(write=False)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.__post_init__()  # unpickled and copied arrays could be written to
