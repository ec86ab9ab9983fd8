# SPDX-License-Identifier: Apache-2.0
"""A made-up H&E dataset with exact nucleus masks, for trying things out without any download."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage
from skimage.color import rgb_from_hed

from ..exceptions import DatasetError
from .atomic_write import atomic_write

__all__ = ["generate_sample_dataset"]

FORMAT_VERSION = 1
MARKER = "sample_set.json"
FOLDERS = ("images", "labels")
MIN_SIZE = 64
# optical densities of red, green and blue for one unit of stain; scanners see less pure stains than scikit-image's
# matrix says, hence the mixture
HAEMATOXYLIN = 0.7 * rgb_from_hed[0] + 0.3 * np.array([0.50, 0.76, 0.40])
EOSIN = 0.5 * rgb_from_hed[1] + 0.5 * np.array([0.22, 0.80, 0.50])


def generate_sample_dataset(
    output_dir: str | os.PathLike[str], num_images: int = 20, image_size: int = 500, seed: int = 0
) -> Path:
    """Write pictures that look like H&E at 40x, with the exact masks of their nuclei.

    Files: ``images/sample_000.png`` (RGB) and ``labels/sample_000.png`` (0 and 255), and last ``sample_set.json``
    with the settings. If that file is there with the same settings, nothing is done; a part-written set is written
    anew. The same settings give the same pixels, and picture ``i`` depends on ``seed`` and ``image_size`` only.

    Args:
        output_dir: folder to write into; created when missing.
        num_images: number of pictures, 1 to 1000.
        image_size: width and height in pixels, at least 64. Nuclei have diameters of about 14 to 40 pixels whatever
            the size.
        seed: any integer from 0.

    Returns:
        The absolute path of ``output_dir``, which :func:`~monai_segdiff.data.monuseg.monuseg_datalist` can list.

    Raises:
        DatasetError: for settings out of range, or when ``images`` or ``labels`` in ``output_dir`` hold files that
            are not from here.

    Example:
        >>> generate_sample_dataset("sample", num_images=2, image_size=128)  # doctest: +SKIP
        PosixPath('/home/me/sample')
    """
    root = Path(os.path.abspath(os.path.expanduser(os.fspath(output_dir))))
    if not 1 <= num_images <= 1000 or image_size < MIN_SIZE or seed < 0:
        raise DatasetError(
            f"{root}: num_images={num_images}, image_size={image_size}, seed={seed}; expected 1 to 1000 images of at "
            f"least {MIN_SIZE} pixels and a seed from 0."
        )
    settings = {"format_version": FORMAT_VERSION, "num_images": num_images, "image_size": image_size, "seed": seed}
    names = [f"sample_{i:03d}.png" for i in range(num_images)]
    if _read_marker(root / MARKER) == settings and all((root / f / n).is_file() for f in FOLDERS for n in names):
        return root
    _refuse_foreign_files(root)
    try:
        for folder in FOLDERS:
            (root / folder).mkdir(parents=True, exist_ok=True)
        (root / MARKER).unlink(missing_ok=True)  # from here on the set is incomplete
        for folder in FOLDERS:
            for old in (root / folder).glob("sample_*.png"):
                if old.name not in names:
                    old.unlink()
        for i, name in enumerate(names):
            image, mask = _draw(np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(i,))), image_size)
            for folder, picture in (("labels", mask.astype(np.uint8) * 255), ("images", image)):
                with atomic_write(root / folder / name) as temporary:
                    Image.fromarray(picture).save(temporary)
        with atomic_write(root / MARKER) as temporary:
            temporary.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise DatasetError(
            f"{root}: the sample set cannot be written ({error}); expected a writable folder."
        ) from error
    return root


def _read_marker(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None  # missing or damaged: the set is written anew


def _refuse_foreign_files(root: Path) -> None:
    for folder in FOLDERS:
        path = root / folder
        entries = sorted(path.iterdir()) if path.is_dir() else []
        foreign = [e.name for e in entries if not re.fullmatch(r"sample_\d{3}\.png", e.name) and e.name[0] != "."]
        if foreign:
            raise DatasetError(
                f"{path}: holds {len(foreign)} files that are not of the sample set ({', '.join(foreign[:5])}); "
                "expected an empty or new folder, nothing was written."
            )


def _noise(rng: np.random.Generator, size: int, sigma: float | tuple[float, float]) -> np.ndarray:
    """Smooth noise of mean 0 and standard deviation 1."""
    # very smooth noise is made small and enlarged, which looks the same and takes a tenth of the time
    factor = max(1, int(np.min(sigma) // 3))
    small = rng.standard_normal((-(-size // factor) + 1,) * 2).astype(np.float32)
    field = ndimage.gaussian_filter(small, np.divide(sigma, factor), mode="wrap", truncate=3.0)
    if factor > 1:
        field = ndimage.zoom(field, factor, order=1)
    field = field[:size, :size]
    return (field - field.mean()) / (field.std() + 1e-6)


def _squash(field: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-np.clip(field, -30.0, 30.0)))


def _blob(rng: np.random.Generator, diameter: float, max_aspect: float, rough: float) -> tuple[int, np.ndarray]:
    """Draw an ellipse with a wavy outline: its half window and the distance inside its border (pixels, < 0 outside)."""
    aspect, angle = rng.uniform(1.0, max_aspect), rng.uniform(0, np.pi)
    a, b = diameter / 2 * np.sqrt(aspect), diameter / 2 / np.sqrt(aspect)
    half = int(np.ceil(a * (1 + 3 * rough))) + 4
    y, x = np.mgrid[-half : half + 1, -half : half + 1].astype(np.float32)
    theta = np.arctan2(y, x) - angle
    radius = a * b / np.sqrt((b * np.cos(theta)) ** 2 + (a * np.sin(theta)) ** 2)
    for k in range(2, 7):
        radius *= 1 + rough * rng.normal() / k**0.7 * np.cos(k * theta + rng.uniform(0, 2 * np.pi))
    return half, radius - np.hypot(x, y)


def _window(row: int, column: int, half: int, size: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Slices of the picture and of the blob for a blob at (row, column), cut at the border of the picture."""
    cuts = [(max(0, c - half), min(size, c + half + 1), c - half) for c in (row, column)]
    (r0, r1, ro), (c0, c1, co) = cuts
    return (slice(r0, r1), slice(c0, c1)), (slice(r0 - ro, r1 - ro), slice(c0 - co, c1 - co))


def _tissue(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Stain amounts of the tissue without nuclei, and a field that is high where cells crowd."""
    cells = _noise(rng, size, size / 9) + 0.4 * _noise(rng, size, 22)
    # fibres: noise drawn out along one axis, turned and bent by a smooth displacement
    turn, shift = rng.uniform(0, np.pi), 17 * np.stack([_noise(rng, size, 45) for _ in range(2)])
    y, x = np.mgrid[:size, :size].astype(np.float32) + shift
    turned = [np.cos(turn) * y + np.sin(turn) * x, -np.sin(turn) * y + np.cos(turn) * x]
    strands = _noise(rng, size, (1.2, 12)) + 0.8 * _noise(rng, size, (4.0, 30))
    fibres = ndimage.map_coordinates(strands, turned, order=1, mode="grid-wrap")
    stroma = _squash(-2.5 * cells)
    grain = _noise(rng, size, 2.2)
    eosin = 0.34 + stroma * (0.13 * fibres + 0.1) + (1 - stroma) * 0.09 * grain + 0.08 * _noise(rng, size, 30)
    # cytoplasm takes up some haematoxylin as well, more in places, so that it is as blue as a pale nucleus
    blue = np.clip(_noise(rng, size, 14) + 0.6 * cells, 0, 2.5)
    haem = 0.14 + (1 - stroma) * (0.14 * blue + 0.05 * grain) + 0.04 * stroma * fibres + 0.03 * _noise(rng, size, 5)
    gaps = _squash(7 * (_noise(rng, size, 13) + 0.3 * fibres * stroma - rng.uniform(1.7, 2.4)))
    return haem * (1 - 0.9 * gaps), eosin * (1 - 0.93 * gaps), cells - 3 * gaps


def _add_distractors(rng: np.random.Generator, haem: np.ndarray, eosin: np.ndarray) -> None:
    """Put in, in place, what is no nucleus: red blood cells, eosin droplets, unsharp blue smears, dark specks."""
    size = haem.shape[0]
    area = (size / 500) ** 2
    for kind, mean in (("red cell", 16), ("droplet", 7), ("smear", 14), ("speck", 14)):
        row, column = rng.uniform(0, size, 2)
        for _ in range(rng.poisson(mean * area)):
            # the next one is often beside the last one, as red cells in a vessel are
            near = kind == "red cell" and rng.random() < 0.75
            row, column = (row, column) + rng.normal(0, 16, 2) if near else rng.uniform(0, size, 2)
            low, high = {"red cell": (13, 18), "droplet": (14, 34), "smear": (16, 36), "speck": (2, 6)}[kind]
            half, depth = _blob(rng, rng.uniform(low, high), 1.5, 0.05)
            centre = int(np.clip(row, 0, size - 1)), int(np.clip(column, 0, size - 1))
            here, part = _window(*centre, half, size)
            depth = depth[part]
            if kind == "smear":
                haem[here] += rng.uniform(0.2, 0.5) * _squash(depth / 3.5)
            elif kind == "speck":
                haem[here] += rng.uniform(0.5, 1.0) * _squash(depth / 0.6)
            else:
                cover = _squash(depth / (0.8 if kind == "red cell" else 2.0))
                tone = rng.uniform(0.6, 0.95) - (0.25 * _squash((depth - 4) / 1.2) if kind == "red cell" else 0.0)
                haem[here] *= 1 - 0.8 * cover
                eosin[here] += cover * (tone - eosin[here])


def _add_nuclei(rng: np.random.Generator, haem: np.ndarray, eosin: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """Put in nuclei, in place, until they cover the share drawn for this picture.

    Returns:
        The mask of the nuclei, bool.
    """
    size = haem.shape[0]
    mask = np.zeros((size, size), dtype=bool)
    likely = np.exp(np.clip(1.3 * crowd, -4, 2.2)).ravel().astype(np.float64)
    likely /= likely.sum()
    chromatin = 0.75 * _noise(rng, size, 1.3) + 0.65 * _noise(rng, size, 2.8)
    typical, wanted = rng.uniform(19, 25), rng.uniform(0.17, 0.28) * size * size
    covered, centres = 0, rng.choice(size * size, size=max(40, size * size // 250), p=likely)
    for centre in centres:
        if covered >= wanted:
            break
        row, column = divmod(int(centre), size)
        # stroma cells are thin and dark, the others round
        spindle = crowd[row, column] < -0.3 and rng.random() < 0.7
        diameter = float(np.clip(rng.normal(typical - 4 * spindle, 4.5), 15, 38))
        half, depth = _blob(rng, diameter, 2.6 if spindle else 1.5, 0.05)
        here, part = _window(row, column, half, size)
        depth = depth[part]
        inside = depth > 0
        overlap = np.count_nonzero(mask[here] & inside)
        if overlap > 0.12 * inside.sum():
            continue
        covered += np.count_nonzero(inside) - overlap
        mask[here] |= inside
        dark = rng.uniform(0.8, 1.35) if spindle else rng.uniform(0.45, 1.25)
        # pale nuclei look empty: chromatin lies at the rim and in a nucleolus or two
        open_centre = 0.0 if spindle else rng.uniform(0.0, 0.45)
        density = dark * (1 + 0.22 * chromatin[here]) * (1 - open_centre * _squash((depth - 3.5) / 0.9))
        for _ in range(rng.integers(0, 3) if open_centre > 0.15 else 0):
            r, c = rng.integers(0, depth.shape[0]), rng.integers(0, depth.shape[1])
            rows, columns = np.ogrid[: depth.shape[0], : depth.shape[1]]
            spot = np.exp(-((rows - r) ** 2 + (columns - c) ** 2) / (2 * rng.uniform(1.2, 2.0) ** 2))
            density = density + 0.55 * spot * (depth > 2)
        cover = _squash(depth / rng.uniform(0.35, 1.3))
        haem[here] += cover * (np.maximum(density, 0.12) + 0.1 - haem[here])
        eosin[here] *= 1 - cover * rng.uniform(0.25, 0.6)
    return mask


def _draw(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw one picture: RGB uint8 [size, size, 3] and its mask, bool [size, size]."""
    haem, eosin, crowd = _tissue(rng, size)
    _add_distractors(rng, haem, eosin)
    mask = _add_nuclei(rng, haem, eosin, crowd)
    # slides differ in the strength and the hue of both stains
    stains = np.stack([HAEMATOXYLIN, EOSIN]) * rng.normal(1.0, 0.06, (2, 3)) * rng.uniform(0.85, 1.2, (2, 1))
    amounts = np.clip(np.stack([haem, eosin], axis=-1), 0.0, None)
    light = np.exp(-(amounts @ stains)) * rng.uniform(0.94, 0.985, 3)
    light = ndimage.gaussian_filter(light, (rng.uniform(0.6, 1.1),) * 2 + (0,))
    light += rng.normal(0.0, 1.0, light.shape) * rng.uniform(0.008, 0.016)
    return np.clip(light * 255.0 + 0.5, 0, 255).astype(np.uint8), mask
