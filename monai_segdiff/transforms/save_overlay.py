# SPDX-License-Identifier: Apache-2.0
"""Write outlines of a segmentation on its picture."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.config import KeysCollection, PathLike
from monai.data.meta_tensor import MetaTensor
from monai.data.utils import affine_to_spacing
from monai.transforms.transform import MapTransform, Transform
from monai.utils import TransformBackends, convert_to_tensor, ensure_tuple_rep
from PIL import Image

from ..data.atomic_write import atomic_write
from ..visualize.overlay import draw_overlay
from ..visualize.volume_overlay import draw_volume_overlay

__all__ = ["SaveOverlay", "SaveOverlayD", "SaveOverlayDict", "SaveOverlayd"]


def _file_name(image: Any) -> str:
    meta = image.meta if isinstance(image, MetaTensor) else {}
    name = meta.get("filename_or_obj")
    if not isinstance(name, (str, os.PathLike)) or not os.fspath(name):
        raise ValueError(
            f"image is a {type(image).__name__} whose meta 'filename_or_obj' is {name!r}, expected one file name; "
            "load it with LoadImage and keep the meta data."
        )
    return os.fspath(name)


class SaveOverlay(Transform):
    """Write ``<output_dir>/<name>_<output_postfix>.png``: the picture with the outlines of its segmentation.

    ``<name>`` is the stem of the image's ``meta["filename_or_obj"]``, so images of the same stem from different folders
    need different output folders. Colours as in :func:`monai_segdiff.visualize.draw_overlay`. MONAI's readers
    deliver pictures with the x axis first; the file is written with rows first, so it looks like the original file.

    Of a volume three orthogonal slices are drawn, with the outlines of all classes, as by
    :func:`monai_segdiff.visualize.draw_volume_overlay`.

    Args:
        output_dir: folder to write to; created when the first picture is written.
        output_postfix: added to the name.
        linewidth: width of the outlines, of pictures in pixels, of volumes in points.

    Example:
        >>> image = MetaTensor(torch.zeros(3, 8, 6), meta={"filename_or_obj": "a.png"})
        >>> _ = SaveOverlay("overlays")(image, torch.ones(1, 8, 6))  # doctest: +SKIP
    """

    backend = [TransformBackends.TORCH, TransformBackends.NUMPY]

    def __init__(self, output_dir: PathLike, output_postfix: str = "overlay", linewidth: int = 1) -> None:
        self.output_dir = Path(output_dir)
        self.output_postfix = output_postfix
        self.linewidth = linewidth

    def __call__(self, img: MetaTensor, prediction: Any, label: Any = None) -> MetaTensor:  # type: ignore[override]
        """Write one picture.

        Args:
            img: picture, not normalised, values 0..255, shape [1, W, H] or [3, W, H], or volume of any range, shape
                [1, H, W, D], with its file name in ``meta``.
            prediction: binary segmentation, shape [1, W, H] or [W, H], or classes 0, 1, .. of a volume, [1, H, W, D].
            label: ground truth, like the prediction, or None.

        Returns:
            ``img``, unchanged.

        Raises:
            ValueError: the image has no file name, or image and masks do not fit each other (names the file).
        """
        name = _file_name(img)
        path = self.output_dir / f"{Path(name.removesuffix('.gz')).stem}_{self.output_postfix}.png"
        if img.ndim == 4:
            try:
                spacing = affine_to_spacing(img.affine.cpu()).tolist()
                draw_volume_overlay(path, img, prediction, label, spacing, self.linewidth)
            except ValueError as error:
                raise ValueError(f"{name}: no overlay drawn: {error}") from error
            return img
        truth = None if label is None else self._rows_first(label)
        try:
            picture = draw_overlay(self._rows_first(img), self._rows_first(prediction), truth, self.linewidth)
        except ValueError as error:
            raise ValueError(f"{name}: no overlay drawn (shapes with rows first): {error}") from error
        with atomic_write(path) as temporary:
            Image.fromarray(picture).save(temporary)
        return img

    @staticmethod
    def _rows_first(value: Any) -> torch.Tensor:
        tensor = convert_to_tensor(value, track_meta=False)
        return tensor.transpose(-1, -2) if tensor.ndim >= 2 else tensor


class SaveOverlayd(MapTransform):
    """Dictionary-based version of :class:`SaveOverlay`; the data is returned unchanged.

    Args:
        keys: key(s) of the prediction(s): binary, or classes of a volume.
        image_key: key of the picture, values 0..255, not normalised, or of the volume.
        label_key: key of the ground truth, or None to draw the prediction alone.
        output_dir: folder to write to.
        output_postfix: added to the name; one per key if there are several keys.
        linewidth: width of the outlines, of pictures in pixels, of volumes in points.
        allow_missing_keys: skip predictions that are not in the data instead of raising KeyError.

    Raises:
        ValueError: several keys share one ``output_postfix``, and so would overwrite each other.

    Example:
        >>> save = SaveOverlayd(keys="pred", image_key="picture", label_key="label", output_dir="overlays")
    """

    backend = SaveOverlay.backend

    def __init__(
        self,
        keys: KeysCollection,
        image_key: Hashable = "image",
        label_key: Hashable | None = None,
        output_dir: PathLike = "./",
        output_postfix: str | Sequence[str] = "overlay",
        linewidth: int = 1,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.image_key = image_key
        self.label_key = label_key
        postfixes = ensure_tuple_rep(output_postfix, len(self.keys))
        if len(set(postfixes)) < len(self.keys):
            raise ValueError(f"output_postfix is {output_postfix!r} for keys {self.keys}, expected one for each key.")
        self.savers = [SaveOverlay(output_dir, postfix, linewidth) for postfix in postfixes]

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write one picture per key; see :meth:`SaveOverlay.__call__`."""
        d = dict(data)
        label = None if self.label_key is None else d[self.label_key]
        for key, saver in self.key_iterator(d, self.savers):
            saver(d[self.image_key], d[key], label)
        return d


SaveOverlayD = SaveOverlayDict = SaveOverlayd
