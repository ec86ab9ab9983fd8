# SPDX-License-Identifier: Apache-2.0
"""Write probability and uncertainty to files that other programs read."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.config import KeysCollection, PathLike
from monai.data.meta_tensor import MetaTensor
from monai.transforms.transform import MapTransform, Transform
from monai.utils import TransformBackends, convert_to_tensor, ensure_tuple_rep

from ..data.atomic_write import atomic_write
from ..visualize.uncertainty import IN_NATS, STATISTIC_LIMITS, draw_uncertainty
from .save_overlay import _file_name
from .split_statistics import STATISTICS

__all__ = ["SaveUncertainty", "SaveUncertaintyD", "SaveUncertaintyDict", "SaveUncertaintyd"]


class SaveUncertainty(Transform):
    """Write ``<output_dir>/<name>_<output_postfix>.npz`` and, for 2-D images, a picture ``.png`` of the same name.

    The ``.npz`` holds float32 arrays ``[C, *spatial]``: ``probability`` (mean of the generations, 0..1),
    ``standard_deviation`` (0..0.5), ``entropy`` and ``mutual_information`` (nats, 0..ln 2). In a volume of classes that
    exclude each other the last two may have one channel (0..ln C). MONAI's readers deliver pictures with the x axis
    first; 2-D arrays are written with rows first, ``[C, H, W]``, as picture files are read by other programs. 3-D
    arrays keep MONAI's order of axes, which is that of NIfTI files. The picture is that of
    :func:`monai_segdiff.visualize.draw_uncertainty`.

    ``<name>`` is that of the image's ``meta["filename_or_obj"]`` without folder and suffix, so images of the same name
    from different folders need different output folders.

    Args:
        output_dir: folder to write to; created when the first file is written.
        output_postfix: added to the name.
        threshold: probability that foreground exceeds, for the outlines in the picture.

    Example:
        >>> image = MetaTensor(torch.zeros(3, 8, 6), meta={"filename_or_obj": "a.png"})
        >>> _ = SaveUncertainty("output")(image, *SplitStatistics()(statistics))  # doctest: +SKIP
    """

    backend = [TransformBackends.TORCH, TransformBackends.NUMPY]

    def __init__(self, output_dir: PathLike, output_postfix: str = "uncertainty", threshold: float = 0.5) -> None:
        self.output_dir = Path(output_dir)
        self.output_postfix = output_postfix
        self.threshold = threshold

    def __call__(  # type: ignore[override]
        self,
        img: MetaTensor,
        mean: Any,
        standard_deviation: Any,
        entropy: Any,
        mutual_information: Any,
        label: Any = None,
    ) -> MetaTensor:
        """Write the files of one image.

        Args:
            img: picture, not normalised, values 0..255, ``[1, *spatial]`` or ``[3, *spatial]``, with its file name in
                ``meta``. Of a 3-D image only the file name and the size are used.
            mean: probability, ``[C, *spatial]``.
            standard_deviation: of the same shape.
            entropy: in nats, of the same shape or, of volumes, ``[1, *spatial]``, like the following.
            mutual_information: in nats.
            label: classes 0..C for the picture, ``[1, *spatial]`` or ``[*spatial]``, or None.

        Returns:
            ``img``, unchanged.

        Raises:
            ValueError: the image has no file name, a statistic has another shape than the mean or the image, or the
                picture cannot be drawn (names the file).
        """
        name = _file_name(img)
        statistics = (mean, standard_deviation, entropy, mutual_information)
        arrays: dict[str, Any] = dict(zip(STATISTIC_LIMITS, map(_rows_first, statistics), strict=True))
        picture = _rows_first(img)
        spatial_dims = picture.ndim - 1
        for statistic, array in arrays.items():
            shape = arrays["probability"].shape
            channels = {shape[:1], (1,)} if spatial_dims == 3 and statistic in IN_NATS else {shape[:1]}
            if spatial_dims not in (2, 3) or array.shape[:1] not in channels or array.shape[1:] != picture.shape[1:]:
                raise ValueError(
                    f"{name}: {statistic} has shape {array.shape}, probability {shape} and the image "
                    f"{picture.shape}, expected [C, *spatial] of one size with 2 or 3 spatial dimensions."
                )
        stem = f"{Path(name.removesuffix('.gz')).stem}_{self.output_postfix}"
        if spatial_dims == 2:
            truth = None if label is None else _rows_first(label)
            try:
                draw_uncertainty(self.output_dir / f"{stem}.png", picture, arrays, truth, self.threshold)
            except ValueError as error:
                raise ValueError(f"{name}: no uncertainty drawn (shapes with rows first): {error}") from error
        with atomic_write(self.output_dir / f"{stem}.npz") as temporary:
            np.savez(temporary, **arrays)  # compression takes a second and saves a quarter
        return img


def _rows_first(value: Any) -> np.ndarray:
    """Return a float32 array ``[C, *spatial]``; of 2-D images, with or without channels, rows come before columns."""
    array = convert_to_tensor(value, track_meta=False).detach().cpu().float().numpy()
    return array.swapaxes(-1, -2) if array.ndim in (2, 3) else array


class SaveUncertaintyd(MapTransform):
    """Dictionary-based version of :class:`SaveUncertainty`; the data is returned unchanged.

    Stands behind :class:`~monai_segdiff.SplitStatisticsd`, whose items it takes: the mean under the key, the others
    under ``<key>_standard_deviation``, ``<key>_entropy`` and ``<key>_mutual_information``.

    Args:
        keys: key(s) of the probability.
        image_key: key of the picture, values 0..255, not normalised.
        label_key: key of the ground truth, or None to draw the prediction alone.
        output_dir: folder to write to.
        output_postfix: added to the name; one per key if there are several keys.
        threshold: probability that foreground exceeds, for the outlines in the picture.
        allow_missing_keys: skip predictions that are not in the data instead of raising KeyError.

    Raises:
        ValueError: several keys share one ``output_postfix``, and so would overwrite each other.

    Example:
        >>> save = SaveUncertaintyd(keys="pred", image_key="picture", output_dir="output")
    """

    backend = SaveUncertainty.backend

    def __init__(
        self,
        keys: KeysCollection,
        image_key: Hashable = "image",
        label_key: Hashable | None = None,
        output_dir: PathLike = "./",
        output_postfix: str | Sequence[str] = "uncertainty",
        threshold: float = 0.5,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.image_key = image_key
        self.label_key = label_key
        postfixes = ensure_tuple_rep(output_postfix, len(self.keys))
        if len(set(postfixes)) < len(self.keys):
            raise ValueError(f"output_postfix is {output_postfix!r} for keys {self.keys}, expected one for each key.")
        self.savers = [SaveUncertainty(output_dir, postfix, threshold) for postfix in postfixes]

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write the files of each key; see :meth:`SaveUncertainty.__call__`.

        Raises:
            KeyError: the picture, the label or a statistic is not in the data.
        """
        d = dict(data)
        for key, saver in self.key_iterator(d, self.savers):
            names = [self.image_key, key, *(f"{key}_{name}" for name in STATISTICS[1:])]
            if self.label_key is not None:
                names.append(self.label_key)
            missing = [name for name in names if name not in d]
            if missing:
                raise KeyError(f"{type(self).__name__} misses {missing}, expected {names} (see SplitStatisticsd).")
            saver(*(d[name] for name in names))
        return d


SaveUncertaintyD = SaveUncertaintyDict = SaveUncertaintyd
