# SPDX-License-Identifier: Apache-2.0
"""Masks from Aperio ImageScope annotation files."""

from __future__ import annotations

import logging
import math
import os
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.data.image_reader import ImageReader
from monai.utils import MetaKeys, ensure_tuple
from PIL import Image
from skimage.draw import polygon

from ..exceptions import AnnotationError
from .monuseg import IMAGE_FOLDERS, IMAGE_SUFFIXES, list_files

__all__ = ["AperioReader"]

logger = logging.getLogger(__name__)

MIN_VERTICES = 3
# beyond any whole slide; the rasteriser overflows on numbers such as 1e300
MAX_COORDINATE = 1e8


class AperioReader(ImageReader):
    """Read an Aperio ImageScope XML file as a mask, so that ``LoadImaged`` can load it as a label.

    Every ``Annotations/Annotation/Regions/Region`` polygon is filled at full resolution with no pixel shift
    (``skimage.draw.polygon``, rows = Y, columns = X) and clipped to the image. Regions that ImageScope marks
    ``NegativeROA`` are filled like the others: in MoNuSeg they are nuclei. Regions of fewer than three vertices
    (stray clicks, found in the official files) have no area; they are left out with a logged warning.

    ``read`` only looks at the suffix and ``get_data`` does the work: ``LoadImage`` swallows what ``read`` raises and
    tries its next reader, so that a damaged annotation would end as an unspecific error of another reader. For the
    same reason this reader can stand in a list, ``LoadImaged(reader=[MaskReader(), AperioReader()])``.

    Args:
        mode: ``"binary"`` gives uint8 0 and 1; ``"instance"`` gives int32, 0 and 1..N in file order, where later
            regions overwrite earlier ones (a number can therefore be missing).
        image_size: (width, height) of the image in pixels. With None it is read from the header of the image of the
            same name: beside the XML file, or in ``Tissue Images``, ``Tissue_Images`` or ``images`` beside its folder.
        reverse_indexing: True gives (width, height) arrays, x first, as MONAI's ``PILReader`` does by default;
            False gives (height, width).

    Raises:
        ValueError: for an unknown ``mode`` or an ``image_size`` that is not two positive integers.

    Example:
        >>> load = LoadImaged(keys="label", reader=AperioReader())  # doctest: +SKIP
        >>> load({"label": "Annotations/TCGA-18-5592-01Z-00-DX1.xml"})["label"].shape  # doctest: +SKIP
        torch.Size([1000, 1000])
    """

    def __init__(
        self, mode: str = "binary", image_size: Sequence[int] | None = None, reverse_indexing: bool = True
    ) -> None:
        super().__init__()
        if mode not in ("binary", "instance"):
            raise ValueError(f"mode must be 'binary' or 'instance', got {mode!r}.")
        if image_size is not None and (len(image_size) != 2 or any(int(n) != n or n < 1 for n in image_size)):
            raise ValueError(f"image_size must be (width, height) in pixels, got {image_size!r}.")
        self.mode = mode
        self.image_size = None if image_size is None else (int(image_size[0]), int(image_size[1]))
        self.reverse_indexing = reverse_indexing

    def verify_suffix(self, filename: Sequence[str | os.PathLike] | str | os.PathLike) -> bool:
        """Whether all the file names end in ``.xml`` (in any case)."""
        return all(Path(name).suffix.lower() == ".xml" for name in ensure_tuple(filename))

    def read(self, data: Sequence[str | os.PathLike] | str | os.PathLike, **kwargs: Any) -> Path:
        """Accept one file by its name; it is opened by :meth:`get_data`.

        Args:
            data: the path of one XML file.
            kwargs: ignored.

        Raises:
            AnnotationError: for several files, or one which is not named ``.xml``.
        """
        names = ensure_tuple(data)
        listed = ", ".join(str(name) for name in names)
        if len(names) != 1:
            raise AnnotationError(f"{listed}: got {len(names)} annotation files for one label; expected one.")
        if not self.verify_suffix(names):
            raise AnnotationError(f"{listed}: not an Aperio annotation by its name; expected a file ending in .xml.")
        return Path(names[0])

    def get_data(self, img: Path) -> tuple[np.ndarray, dict]:
        """Fill the polygons of one file.

        Args:
            img: what :meth:`read` gave.

        Returns:
            The mask, (W, H) or (H, W), and its metadata with the keys that ``PILReader`` gives.

        Raises:
            AnnotationError: when the file is missing, malformed, no Aperio file, without usable regions, holds
                coordinates that are not numbers or a polygon outside the image, or when the image size is unknown.
        """
        path = Path(img)
        regions = _parse_regions(path)
        width, height = self.image_size or _find_image_size(path)
        mask = np.zeros((height, width), dtype=np.uint8 if self.mode == "binary" else np.int32)
        for number, (region, xy) in enumerate(regions, start=1):
            low, high = xy.min(axis=0), xy.max(axis=0)
            if (high < 0).any() or low[0] > width - 1 or low[1] > height - 1:
                raise AnnotationError(
                    f"{path}: region {region} lies at x {low[0]:g}..{high[0]:g}, y {low[1]:g}..{high[1]:g}; expected "
                    f"it to meet the image of {width} x {height} pixels (is this the annotation of another image?)."
                )
            rows, columns = polygon(xy[:, 1], xy[:, 0], shape=mask.shape)
            mask[rows, columns] = 1 if self.mode == "binary" else number
        array = np.ascontiguousarray(mask.T) if self.reverse_indexing else mask
        meta = {
            "format": "APERIO",
            "mode": "L" if self.mode == "binary" else "I",
            "width": width,
            "height": height,
            MetaKeys.SPATIAL_SHAPE: np.asarray(array.shape),
            MetaKeys.ORIGINAL_CHANNEL_DIM: float("nan"),  # MONAI's sign for "no channel dimension"
        }
        return array, meta


def _parse_regions(path: Path) -> list[tuple[str, np.ndarray]]:
    """Give the number (counted from 1 in the file) and the [N, 2] x, y vertices of each region that has an area."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise AnnotationError(f"{path}: cannot be read ({error}); expected an Aperio XML file.") from error
    if not raw.strip():
        raise AnnotationError(f"{path}: this file is empty; expected an Aperio XML file.")
    # Without the zero bytes UTF-16 reads like ASCII here. Aperio writes no DTD, and entities defined in one can be
    # nested until a small file fills the memory.
    if any(mark in raw.replace(b"\0", b"").upper() for mark in (b"<!DOCTYPE", b"<!ENTITY")):
        raise AnnotationError(f"{path}: holds a document type definition, which is refused; expected plain Aperio XML.")
    try:
        root = ET.fromstring(raw)
    except (ET.ParseError, ValueError, LookupError) as error:
        raise AnnotationError(f"{path}: malformed XML ({error}); expected an Aperio XML file.") from error
    if root.tag != "Annotations":
        raise AnnotationError(f"{path}: the root element is <{root.tag}>; expected <Annotations> (Aperio ImageScope).")
    regions = [(str(i), _vertices(path, i, r)) for i, r in enumerate(root.findall("Annotation/Regions/Region"), 1)]
    if not regions:
        raise AnnotationError(f"{path}: holds no region; expected Annotation/Regions/Region polygons.")
    usable = [(name, xy) for name, xy in regions if len(xy) >= MIN_VERTICES]
    if not usable:
        raise AnnotationError(
            f"{path}: none of the {len(regions)} regions has {MIN_VERTICES} vertices; expected polygons."
        )
    if len(usable) < len(regions):
        names = ", ".join(name for name, xy in regions if len(xy) < MIN_VERTICES)
        logger.warning("%s: left out regions of fewer than %d vertices: %s.", path, MIN_VERTICES, names)
    return usable


def _vertices(path: Path, number: int, region: ET.Element) -> np.ndarray:
    values: list[tuple[float, float]] = []
    for vertex in region.findall("Vertices/Vertex"):
        try:
            x, y = float(vertex.attrib["X"]), float(vertex.attrib["Y"])
        except (KeyError, ValueError):
            x = y = math.nan
        if not (abs(x) <= MAX_COORDINATE and abs(y) <= MAX_COORDINATE):  # False for NaN as well
            raise AnnotationError(
                f"{path}: vertex {len(values) + 1} of region {number} has X={vertex.get('X')!r} Y={vertex.get('Y')!r}; "
                "expected finite pixel coordinates."
            )
        values.append((x, y))
    return np.asarray(values, dtype=np.float64).reshape(-1, 2)


def _find_image_size(path: Path) -> tuple[int, int]:
    """Read (width, height) from the header of the image that has the name of the annotation."""
    path = Path(os.path.abspath(path))
    above = path.parent.parent
    folders = [path.parent, *sorted(p for p in above.iterdir() if p.name.lower() in IMAGE_FOLDERS and p.is_dir())]
    images = [p for folder in folders for p in list_files(folder, IMAGE_SUFFIXES) if p.stem == path.stem]
    sizes: dict[tuple[int, int], Path] = {}
    for image in images:
        try:
            with Image.open(image) as opened:
                sizes.setdefault(opened.size, image)
        except Exception as error:  # PIL's plugins raise many types on damaged files
            raise AnnotationError(f"{path}: cannot read the size of its image {image} ({error}).") from error
    if len(sizes) == 1:
        return next(iter(sizes))
    if sizes:
        found = ", ".join(f"{image} ({width} x {height})" for (width, height), image in sizes.items())
        raise AnnotationError(f"{path}: images of different sizes have its name: {found}; expected one, or image_size.")
    raise AnnotationError(
        f"{path}: the size of its image is unknown; expected {path.stem} with {', '.join(IMAGE_SUFFIXES)} beside it or "
        f"in 'Tissue Images' or 'images' beside its folder, or the argument image_size=(width, height)."
    )
