# SPDX-License-Identifier: Apache-2.0
"""Crops of single objects from Cityscapes, as SegDiff segments them."""

from __future__ import annotations

import json
import logging
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.utils import StrEnum, look_up_option
from PIL import Image
from tqdm import tqdm

from ..exceptions import AnnotationError, DatasetError
from .cityscapes_annotation import CityscapesAnnotation
from .monuseg import absolute, monuseg_datalist, name_some
from .prepare_folder import prepare_folder
from .rgb_reader import RGBReader

__all__ = ["cityscapes_split", "prepare_cityscapes_crops"]

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
MARKER = "crops.json"
CLASSES = ("bicycle", "bus", "person", "train", "truck", "motorcycle", "car", "rider")
PARTS = ("training", "validation", "test")
POLYGONS = "_gtFine_polygons.json"
LAYOUT = (
    "expected the folder of the Cityscapes downloads gtFine_trainvaltest and leftImg8bit_trainvaltest: "
    f"gtFine/{{train,val}}/CITY/NAME{POLYGONS} with leftImg8bit/{{train,val}}/CITY/NAME_leftImg8bit.png"
)


class Box(StrEnum):
    """What is cut out around an object."""

    TIGHT = "tight"
    EXPANSION = "expansion"


def prepare_cityscapes_crops(
    cityscapes_dir: str | os.PathLike[str],
    output_dir: str | os.PathLike[str],
    class_name: str,
    box: str = Box.TIGHT,
    expansion: float = 15,
    training_expansion: tuple[int, int] = (10, 20),
    validation_cities: Sequence[str] = ("weimar", "zurich"),
    min_size: int = 2,
    seed: int = 0,
    progress: bool = True,
) -> Path:
    """Cut every object of one class out of Cityscapes, with the mask of its visible part.

    Files: ``{training,validation,test}/{images,labels}/NAME_INDEX.png``, RGB crops and masks of 0 and 255 at the size
    of the crop; NAME is that of the image, INDEX the object's place in the annotation. ``crops.json`` holds the
    settings and counts. The folder is written as a whole; if it is there with the same settings, nothing is done.

    *Objects* are those whose label is exactly ``class_name``, so that groups ("cargroup") and deleted objects are left
    out. The mask is the object's polygon without all later polygons, see
    :class:`~monai_segdiff.data.cityscapes_annotation.CityscapesAnnotation`. Objects of which nothing is visible are
    left out and counted. *Parts*: ``test`` is the official val set (the official test annotations are not public);
    ``validation`` are the cities of the train set in ``validation_cities``, ``training`` are the others.

    Args:
        cityscapes_dir: folder with ``gtFine`` and ``leftImg8bit``.
        output_dir: folder to fill; new, empty, or filled before with the same settings.
        class_name: bicycle, bus, person, train, truck, motorcycle, car or rider.
        box: ``"tight"``: the smallest box around the mask; ``"expansion"``: that box enlarged.
        expansion: per cent by which validation and test boxes are enlarged along each axis, half on each side, as far
            as the image reaches.
        training_expansion: smallest and largest per cent for training: a whole number drawn once for each object, from
            ``seed``, the file's name and the object's index.
        validation_cities: cities of the train set that validate, as in Polygon-RNN.
        min_size: objects whose visible box has a shorter side (in pixels) are left out and counted; in a tight box of
            one pixel's width there is nothing to find.
        seed: an integer from 0.
        progress: show a progress bar over the images.

    Returns:
        The absolute path of ``output_dir``, for :func:`cityscapes_split`.

    Raises:
        DatasetError: an unknown class, a missing folder, city or image, a part without any object of the class, or an
            output folder with other settings or other content.
        AnnotationError: a damaged annotation, or one that does not fit its image.
        ImageError: a damaged image.
        ValueError: another argument out of range.

    Example:
        >>> crops = prepare_cityscapes_crops("cityscapes", "bus_tight", "bus")  # doctest: +SKIP
        >>> len(cityscapes_split(crops)["training"])  # doctest: +SKIP
    """
    low, high = training_expansion
    if class_name not in CLASSES:
        raise DatasetError(f"{absolute(cityscapes_dir)}: unknown class {class_name!r}; expected {', '.join(CLASSES)}.")
    if expansion < 0 or not 0 <= low <= high or min_size < 1 or seed < 0:
        raise ValueError(
            f"expansion={expansion}, training_expansion={training_expansion}, min_size={min_size}, seed={seed}; "
            "expected expansions from 0 with the smaller one first, min_size from 1 and seed from 0."
        )
    enlarged = look_up_option(box, Box) == Box.EXPANSION
    settings = {
        "format_version": FORMAT_VERSION,
        "cityscapes_dir": str(absolute(cityscapes_dir)),
        "class_name": class_name,
        "box": str(box),
        "expansion": expansion if enlarged else 0,
        "training_expansion": [low, high] if enlarged else [0, 0],
        "validation_cities": sorted(validation_cities),
        "min_size": min_size,
        "seed": seed,
    }

    def write(folder: Path) -> dict[str, Any]:
        files = _list_files(absolute(cityscapes_dir), validation_cities)
        counts = {part: {"objects": 0, "hidden": 0, "smaller": 0} for part in PARTS}
        for part in PARTS:
            for kind in ("images", "labels"):
                (folder / part / kind).mkdir(parents=True)
        for part, annotation, image in tqdm(files, desc=f"{class_name} crops", unit="image", disable=not progress):
            _write_crops(annotation, image, folder / part, settings, part == "training", counts[part])
        for part in PARTS:
            if not counts[part]["objects"]:
                raise DatasetError(
                    f"{absolute(cityscapes_dir)}: the {part} part has no visible object '{class_name}' "
                    f"({_left_out(counts[part])}); expected at least one."
                )
            logger.info("%s: %d %s crops; %s.", part, counts[part]["objects"], class_name, _left_out(counts[part]))
        return {"counts": counts}

    return prepare_folder(output_dir, MARKER, settings, write)


def cityscapes_split(crops_dir: str | os.PathLike[str]) -> dict[str, list[dict[str, str]]]:
    """List the crops that :func:`prepare_cityscapes_crops` wrote.

    Args:
        crops_dir: its output folder.

    Returns:
        ``{"training": [...], "validation": [...], "test": [...]}`` of ``{"name", "image", "label"}`` dictionaries,
        sorted by name, with absolute paths.

    Raises:
        DatasetError: the folder was not written by :func:`prepare_cityscapes_crops`, or files were lost since.

    Example:
        >>> cityscapes_split("bus_tight")["test"][0]["name"]  # doctest: +SKIP
        'frankfurt_000000_000294_031'
    """
    marker = absolute(crops_dir) / MARKER
    try:
        counts = json.loads(marker.read_text(encoding="utf-8"))["counts"]
        expected = {part: counts[part]["objects"] for part in PARTS}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(
            f"{marker}: cannot be read ({type(error).__name__}: {error}); expected a folder that "
            "prepare_cityscapes_crops has written."
        ) from error
    parts = {part: monuseg_datalist(marker.parent / part) for part in PARTS}
    for part, entries in parts.items():
        if len(entries) != expected[part]:
            raise DatasetError(
                f"{marker.parent / part}: holds {len(entries)} crops, expected {expected[part]} as {MARKER} says; "
                f"remove {marker.parent} to have it written anew."
            )
    return parts


def _list_files(root: Path, validation_cities: Sequence[str]) -> list[tuple[str, Path, Path]]:
    """Part, annotation and image of every image."""
    files = []
    for official in ("train", "val"):
        folder = root / "gtFine" / official
        if not folder.is_dir():
            raise DatasetError(f"{folder}: this folder does not exist; {LAYOUT}.")
        cities = sorted(path.name for path in folder.iterdir() if path.is_dir())
        if official == "train" and set(validation_cities) - set(cities):
            missing = sorted(set(validation_cities) - set(cities))
            raise DatasetError(
                f"{folder}: no folder of the validation cities {name_some(missing)}, found {name_some(cities)}; "
                f"{LAYOUT}."
            )
        for city in cities:
            part = "test" if official == "val" else "validation" if city in validation_cities else "training"
            for annotation in sorted((folder / city).glob(f"[!.]*{POLYGONS}")):
                name = annotation.name.removesuffix(POLYGONS)
                image = root / "leftImg8bit" / official / city / f"{name}_leftImg8bit.png"
                if not image.is_file():
                    raise DatasetError(f"{image}: the image of {annotation} does not exist; {LAYOUT}.")
                files.append((part, annotation, image))
    return files


def _write_crops(
    annotation_path: Path,
    image_path: Path,
    folder: Path,
    settings: Mapping[str, Any],
    training: bool,
    counts: dict[str, int],
) -> None:
    annotation = CityscapesAnnotation(annotation_path)
    image = None
    for index, top_left, mask in _objects(annotation, settings, counts):
        if image is None:  # most images have no object of a rare class
            image = _read_image(image_path, annotation)
        name = f"{annotation_path.name.removesuffix(POLYGONS)}_{index:03d}"
        percent = settings["expansion"]
        if training:
            percent = random.Random(f"{settings['seed']} {annotation_path.name} {index}").randint(
                *settings["training_expansion"]
            )
        inside, padding = _enlarge(top_left, mask.shape, percent, annotation.size)
        Image.fromarray(image[inside]).save(folder / "images" / f"{name}.png")
        label = np.pad(mask.astype(np.uint8) * 255, padding)
        Image.fromarray(label).save(folder / "labels" / f"{name}.png")


def _objects(
    annotation: CityscapesAnnotation, settings: Mapping[str, Any], counts: dict[str, int]
) -> Iterator[tuple[int, tuple[int, int], np.ndarray]]:
    """Index, corner and mask of every object to cut out; counts all."""
    for index, label in enumerate(annotation.labels):
        if label != settings["class_name"]:
            continue
        visible = annotation.visible(index)
        if visible is None:
            counts["hidden"] += 1
        elif min(visible[1].shape) < settings["min_size"]:
            counts["smaller"] += 1
        else:
            counts["objects"] += 1
            yield index, *visible


def _read_image(path: Path, annotation: CityscapesAnnotation) -> np.ndarray:
    reader = RGBReader(reverse_indexing=False)
    image, _ = reader.get_data(reader.read(path))
    if image.shape[:2] != annotation.size:
        raise AnnotationError(
            f"{annotation.path}: is for an image of {annotation.size[1]} x {annotation.size[0]} pixels, but {path} has "
            f"{image.shape[1]} x {image.shape[0]}; expected the same size."
        )
    return image


def _enlarge(
    start: Sequence[int], size: Sequence[int], percent: float, image_size: Sequence[int]
) -> tuple[tuple[slice, ...], list[tuple[int, int]]]:
    """Where the enlarged box lies in the image, and by how much it is larger at each end of each axis."""
    inside, padding = [], []
    for first, length, limit in zip(start, size, image_size, strict=True):
        margin = length * percent / 200
        low, high = round(max(first - margin, 0)), round(min(first + length + margin, limit))
        inside.append(slice(low, high))
        padding.append((first - low, high - first - length))
    return tuple(inside), padding


def _left_out(counts: Mapping[str, int]) -> str:
    return f"left out {counts['hidden']} that are hidden and {counts['smaller']} that are smaller than min_size"
