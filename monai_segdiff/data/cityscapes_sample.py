# SPDX-License-Identifier: Apache-2.0
"""Made-up street scenes in the folders of Cityscapes, for trying things out without any download."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from ..exceptions import DatasetError
from .monuseg import absolute
from .prepare_folder import prepare_folder

__all__ = ["generate_cityscapes_sample"]

FORMAT_VERSION = 1
MARKER = "sample_set.json"
MIN_SIZE = 128
# Dealt out in this order, so that five images fill every part and ten hold six for training.
CITIES = ("aachen", "weimar", "frankfurt", "bremen", "zurich", "aachen", "bremen", "frankfurt", "aachen", "bremen")
MIN_IMAGES = 5
# Half an outline of a wheel, below the axle, from right to left; vehicles are drawn in units of their scale, x forwards
# and y upwards, and stand on y = 0.
WHEEL = ((0.18, 0.18), (0.13, 0.05), (0.05, 0.0), (-0.05, 0.0), (-0.13, 0.05), (-0.18, 0.18))
WHEELS = {"bus": (2.65, 0.65), "car": (1.48, 0.38)}
BODIES = {
    "bus": ((0, 0.18), (0, 1.35), (0.1, 1.5), (3.3, 1.5), (3.45, 1.3), (3.5, 0.18)),
    "car": ((0, 0.18), (0.02, 0.42), (0.3, 0.5), (0.55, 0.8), (1.2, 0.8), (1.5, 0.52), (1.85, 0.45), (1.9, 0.18)),
}
WINDOWS = {
    "bus": [((x, 0.75), (x, 1.25), (x + 0.5, 1.25), (x + 0.5, 0.75)) for x in (0.15, 0.75, 1.35, 1.95, 2.55)],
    "car": [
        ((0.45, 0.52), (0.62, 0.74), (0.85, 0.74), (0.85, 0.52)),
        ((0.9, 0.52), (0.9, 0.74), (1.13, 0.74), (1.3, 0.54)),
    ],
}
Points = list[tuple[int, int]]


def generate_cityscapes_sample(
    output_dir: str | os.PathLike[str],
    num_images: int = 20,
    image_size: tuple[int, int] = (256, 512),
    seed: int = 0,
) -> Path:
    """Write simple street scenes with buses and cars, which partly cover one another.

    Files as in Cityscapes: ``leftImg8bit/SPLIT/CITY/NAME_leftImg8bit.png`` and
    ``gtFine/SPLIT/CITY/NAME_gtFine_polygons.json``, with the cities aachen, bremen, weimar and zurich in ``train`` and
    frankfurt in ``val``; and ``sample_set.json`` with the settings. The folder is written as a whole; if it is there
    with the same settings, nothing is done. Image ``i`` depends on ``seed`` and ``image_size`` only. Every image has
    at least one bus and one car.

    Args:
        output_dir: folder to fill; new, empty, or filled before with the same settings.
        num_images: number of images, 5 to 1000; three fifths are in aachen and bremen.
        image_size: height and width in pixels, each at least 128.
        seed: an integer from 0.

    Returns:
        The absolute path of ``output_dir``, for :func:`~monai_segdiff.data.cityscapes.prepare_cityscapes_crops`.

    Raises:
        DatasetError: for settings out of range, or an output folder with other settings or other content.

    Example:
        >>> generate_cityscapes_sample("streets", num_images=5, image_size=(128, 256))  # doctest: +SKIP
        PosixPath('/home/me/streets')
    """
    height, width = image_size
    if not MIN_IMAGES <= num_images <= 1000 or min(height, width) < MIN_SIZE or seed < 0:
        raise DatasetError(
            f"{absolute(output_dir)}: num_images={num_images}, image_size={image_size}, seed={seed}; expected "
            f"{MIN_IMAGES} to 1000 images of at least {MIN_SIZE} pixels and a seed from 0."
        )
    settings = {"format_version": FORMAT_VERSION, "num_images": num_images, "image_size": [height, width], "seed": seed}

    def write(folder: Path) -> dict[str, Any]:
        for i in range(num_images):
            city = CITIES[i % len(CITIES)]
            place = Path("val" if city == "frankfurt" else "train", city)
            rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(i,)))
            picture, objects = _Scene(rng, height, width).draw()
            for kind in ("leftImg8bit", "gtFine"):
                (folder / kind / place).mkdir(parents=True, exist_ok=True)
            name = f"{city}_{i:06d}_000019"
            Image.fromarray(picture).save(folder / "leftImg8bit" / place / f"{name}_leftImg8bit.png")
            annotation = {"imgHeight": height, "imgWidth": width, "objects": objects}
            (folder / "gtFine" / place / f"{name}_gtFine_polygons.json").write_text(json.dumps(annotation))
        return {}

    return prepare_folder(output_dir, MARKER, settings, write)


class _Scene:
    """A picture and its polygons, painted from the back to the front."""

    def __init__(self, rng: np.random.Generator, height: int, width: int) -> None:
        self.rng = rng
        self.height, self.width = height, width
        self.image = Image.new("RGB", (width, height))
        self.pencil = ImageDraw.Draw(self.image)
        self.objects: list[dict[str, Any]] = []
        self.horizon = round(height * rng.uniform(0.36, 0.44))

    def draw(self) -> tuple[np.ndarray, list[dict[str, Any]]]:
        """Draw it: RGB uint8 [height, width, 3] and the objects of the annotation."""
        self._background()
        rng = self.rng
        far = [(kind, rng.uniform(0.14, 0.32)) for kind in rng.choice(["bus", "car"], rng.integers(1, 4))]
        near = [("car", rng.uniform(0.5, 0.7)) for _ in range(rng.integers(0, 2))] + [("car", rng.uniform(0.7, 0.9))]
        # No car is tall enough to hide this bus, and nothing but poles stands before the last car.
        for kind, depth in sorted([*far, ("bus", rng.uniform(0.4, 0.65)), *near], key=lambda vehicle: vehicle[1]):
            self._vehicle(kind, depth)
        for _ in range(rng.integers(0, 3)):
            x, thick = int(rng.integers(0, self.width)), max(2, self.width // 100)
            top, bottom = self.horizon // 3, round(self.height * rng.uniform(0.6, 0.8))
            self._object("pole", [(x, top), (x + thick, top), (x + thick, bottom), (x, bottom)], self._grey(60, 110))
        bonnet = round(self.height * 0.95)
        corners = [
            (0, self.height),
            (self.width // 4, bonnet),
            (self.width * 3 // 4, bonnet),
            (self.width, self.height),
        ]
        self._object("ego vehicle", corners, self._grey(20, 60))
        light = np.asarray(self.image, np.float32)
        smooth = ndimage.gaussian_filter(rng.standard_normal((self.height, self.width)), 6.0)
        light *= 1 + 0.08 * (smooth / smooth.std())[..., None]
        light = ndimage.gaussian_filter(light, (0.6, 0.6, 0)) + rng.normal(0, 4.0, light.shape)
        return np.clip(light + 0.5, 0, 255).astype(np.uint8), self.objects

    def _object(self, label: str, points: Points, colour: tuple[int, ...]) -> None:
        self.pencil.polygon(points, fill=colour)
        self.objects.append({"label": label, "polygon": [list(point) for point in points]})

    def _grey(self, low: int, high: int) -> tuple[int, ...]:
        level = self.rng.integers(low, high)
        return tuple(int(value) for value in np.clip(level + self.rng.integers(-10, 11, 3), 0, 255))

    def _background(self) -> None:
        rng, right, bottom = self.rng, self.width, self.height
        self._object("sky", [(0, 0), (right, 0), (right, self.horizon), (0, self.horizon)], self._grey(170, 230))
        self._object(
            "road", [(0, self.horizon), (right, self.horizon), (right, bottom), (0, bottom)], self._grey(70, 120)
        )
        x = 0
        while x < right:
            wide, top = int(right * rng.uniform(0.08, 0.25)), round(self.horizon * rng.uniform(0.0, 0.7))
            foot = self.horizon + self.height // 16
            corners = [(x, top), (x + wide, top), (x + wide, foot), (x, foot)]
            if rng.random() < 0.2:
                self._object("vegetation", corners, (int(rng.integers(20, 60)), int(rng.integers(60, 110)), 30))
            else:
                self._object("building", corners, tuple(int(value) for value in rng.integers(70, 200, 3)))
                step, dark = max(8, right // 40), self._grey(30, 90)
                for row in range(top + step // 2, foot - step, step):
                    for column in range(x + step // 2, x + wide - step // 2, step):
                        self.pencil.rectangle((column, row, column + step // 3, row + step // 2), fill=dark)
            x += wide

    def _vehicle(self, kind: str, depth: float) -> None:
        """Paint a vehicle at a depth from 0 (horizon) to 1 (bottom of the picture)."""
        rng = self.rng
        ground = self.horizon + depth * (self.height - self.horizon)
        scale = depth * (self.height - self.horizon) * rng.uniform(0.9, 1.1)
        outline = [*BODIES[kind], *((wheel + x, y) for wheel in WHEELS[kind] for x, y in WHEEL)]
        length = max(x for x, _ in outline)
        left = rng.uniform(0.05, 0.95) * self.width - length * scale / 2
        # mirrored, and with one end a little nearer than the other
        forwards, slant = rng.random() < 0.5, rng.uniform(-0.08, 0.08)

        def place(points: Any) -> Points:
            placed = []
            for x, y in points:
                along = x if forwards else length - x
                placed.append((round(left + along * scale), round(ground - y * scale * (1 + slant * (along / length)))))
            return placed

        colour = tuple(int(value) for value in rng.integers(20, 235, 3))
        self._object(kind, place(outline), colour)
        radius = 0.18 * scale
        for x, y in place((wheel, 0.18) for wheel in WHEELS[kind]):
            self.pencil.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(25, 25, 28))
        glass = self._grey(30, 150)
        for window in WINDOWS[kind]:
            self.pencil.polygon(place(window), fill=glass)
        if kind == "car":
            plate = place(((0.02, 0.25), (0.02, 0.32), (0.2, 0.32), (0.2, 0.25)))
            self._object("license plate", plate, (235, 235, 225))
