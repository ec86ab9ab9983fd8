# SPDX-License-Identifier: Apache-2.0
"""Made-up aerial pictures of single buildings with exact masks, in place of the Vaihingen buildings."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from ..exceptions import DatasetError
from .monuseg import absolute
from .prepare_folder import prepare_folder

__all__ = ["generate_vaihingen_sample"]

FORMAT_VERSION = 1
MIN_SIZE = 32
# Near infrared, red and green, as the pictures of Vaihingen have them in place of red, green and blue: plants are red.
LAWN, TREE = np.array([158.0, 78.0, 84.0]), np.array([150.0, 48.0, 56.0])
SOIL, ROAD = np.array([128.0, 112.0, 104.0]), np.array([84.0, 92.0, 100.0])
ROOFS = np.array([[150.0, 118.0, 84.0], [112.0, 76.0, 66.0], [132.0, 132.0, 136.0]])
# Shadows fall to the upper left. Lengths are shares of the picture's width.
SHADOW = np.array([-0.6, -0.8])
Shape = Callable[[np.ndarray, np.ndarray], np.ndarray]


def generate_vaihingen_sample(
    output_dir: str | os.PathLike[str], num_images: int = 24, image_size: int = 256, seed: int = 0
) -> Path:
    """Write pictures like those of the Vaihingen buildings, with the exact mask of the one building in each.

    A rectangular or L-shaped building with a tiled roof and its shadow, trees, lawn and a road, in near infrared, red
    and green. Files: ``images/building_1.png`` (three channels) and ``labels/building_1.png`` (0 and 255), numbered
    from 1 without leading zeros, and ``vaihingen_sample.json`` with the settings. The same settings give the same
    pixels, and picture ``n`` depends on ``seed`` and ``image_size`` only.

    Args:
        output_dir: folder to write; missing or empty, or written by an earlier call with the same settings, which is
            then left as it is.
        num_images: number of pictures, 1 to 1000.
        image_size: width and height in pixels, at least 32. Everything in the picture scales with it.
        seed: any integer from 0.

    Returns:
        The absolute path of ``output_dir``, which :func:`~monai_segdiff.data.vaihingen.vaihingen_split` can divide.

    Raises:
        DatasetError: for settings out of range, or when ``output_dir`` holds anything else or cannot be written.

    Example:
        >>> generate_vaihingen_sample("buildings", num_images=2, image_size=64)  # doctest: +SKIP
        PosixPath('/home/me/buildings')
    """
    root = absolute(output_dir)
    if not 1 <= num_images <= 1000 or image_size < MIN_SIZE or seed < 0:
        raise DatasetError(
            f"{root}: num_images={num_images}, image_size={image_size}, seed={seed}; expected 1 to 1000 images of at "
            f"least {MIN_SIZE} pixels and a seed from 0."
        )

    def write(folder: Path) -> dict[str, object]:
        for name in ("images", "labels"):
            (folder / name).mkdir()
        for n in range(1, num_images + 1):
            image, mask = _draw(np.random.default_rng((seed, n)), image_size)
            Image.fromarray(image).save(folder / "images" / f"building_{n}.png")
            Image.fromarray(mask.astype(np.uint8) * 255).save(folder / "labels" / f"building_{n}.png")
        return {}

    settings = {"format_version": FORMAT_VERSION, "num_images": num_images, "image_size": image_size, "seed": seed}
    return prepare_folder(root, "vaihingen_sample.json", settings, write)


def _noise(rng: np.random.Generator, size: int, sigma: float) -> np.ndarray:
    """Smooth noise of mean 0 and standard deviation 1; ``sigma`` is a share of the width."""
    field = ndimage.gaussian_filter(rng.standard_normal((size, size)).astype(np.float32), sigma * size, mode="wrap")
    return (field - field.mean()) / field.std()


def _building(rng: np.random.Generator) -> tuple[Shape, Shape]:
    """Give a building as two functions of x and y: whether a point is in it, and how bright its roof is there."""
    (x0, y0), angle = rng.uniform(-0.07, 0.07, 2), rng.uniform(0, np.pi)
    length, width = rng.uniform(0.17, 0.27), rng.uniform(0.1, 0.16)  # half of each
    depth = rng.uniform(0.08, 0.2) if rng.random() < 0.5 else 0.0  # of the wing of an L
    slopes = rng.permutation([0.75, 1.15])

    def local(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x, y = x - x0, y - y0
        return np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x

    def inside(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        u, v = local(x, y)
        wing = (u <= length) & (u > length - 1.6 * width) & (v > 0) & (v < width + depth)
        return ((np.abs(u) <= length) & (np.abs(v) <= width)) | (wing & (depth > 0))

    def light(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        u, v = local(x, y)
        across, along = np.where(v > width, (u - length + 0.8 * width, v), (v, u))  # to the ridge and along it
        tiles = 0.06 * np.sin(2 * np.pi * across / 0.02) + 0.03 * np.sin(2 * np.pi * along / 0.035)
        return np.where(across > 0, *slopes) + tiles

    return inside, light


def _shaded(inside: Shape, x: np.ndarray, y: np.ndarray, height: float) -> np.ndarray:
    """Tell which points lie in the shadow of something upright."""
    steps = [inside(x - s * SHADOW[0], y - s * SHADOW[1]) for s in np.linspace(0, height, 12)]
    return np.any(steps, axis=0)


def _draw(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw one picture: uint8 [size, size, 3] and its mask, bool [size, size]."""
    y, x = (np.mgrid[:size, :size] + 0.5) / size - 0.5
    rough, fine = _noise(rng, size, 0.08), _noise(rng, size, 0.006)
    cover = 1 / (1 + np.exp(-6 * (rough - rng.uniform(-0.3, 1.0))))[..., None]
    picture = LAWN + cover * (SOIL - LAWN) + 9 * fine[..., None]

    turn, offset = rng.uniform(0, 2 * np.pi), rng.uniform(0.3, 0.45)
    road = np.abs(np.cos(turn) * x + np.sin(turn) * y - offset) < rng.uniform(0.04, 0.08)
    picture[road] = ROAD + 4 * fine[road, None]

    inside, light = _building(rng)
    mask = inside(x, y)
    shade = _shaded(inside, x, y, rng.uniform(0.04, 0.12))
    crowns = np.zeros_like(mask)
    for _ in range(rng.integers(3, 9)):
        (tree_x, tree_y), radius = rng.uniform(-0.5, 0.5, 2), rng.uniform(0.03, 0.08)
        away = np.hypot(x - tree_x, y - tree_y) - radius * (1 + 0.25 * rough)
        if not (mask & (away < 0)).any():  # what hides a part of the roof would make its mask a guess
            crowns |= away < 0
            shade |= np.hypot(x - tree_x - 0.05 * SHADOW[0], y - tree_y - 0.05 * SHADOW[1]) < radius
    leaves = 1 + 0.35 * _noise(rng, size, 0.012)[..., None]
    picture[shade] *= 0.4
    picture[crowns] = (TREE * leaves)[crowns]
    roof = ROOFS[rng.integers(len(ROOFS))] * rng.uniform(0.85, 1.15)
    picture[mask] = (roof * light(x, y)[..., None] + 5 * fine[..., None])[mask]

    picture = ndimage.gaussian_filter(picture, (0.6, 0.6, 0)) * rng.uniform(0.85, 1.1)
    picture += rng.normal(0, 4, picture.shape)
    return np.clip(picture + 0.5, 0, 255).astype(np.uint8), mask
