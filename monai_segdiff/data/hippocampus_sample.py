# SPDX-License-Identifier: Apache-2.0
"""Made-up MR volumes of a structure in two parts with exact labels, in place of the hippocampus task."""

from __future__ import annotations

import os
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from ..exceptions import DatasetError
from .monuseg import absolute
from .prepare_folder import prepare_folder

__all__ = ["generate_hippocampus_sample"]

FORMAT_VERSION = 1
# Lengths in voxels, which are millimetres; axes to the right, to the front and upwards. The parts overlap a little.
SMALLEST, LARGEST = (30, 38, 30), (34, 42, 34)
CENTRES = np.array([[0.0, 5.4, -2.7], [0.0, -5.4, 2.7]])  # anterior, posterior
RADII = np.array([[5.5, 7.0, 5.5], [4.2, 9.0, 4.8]])
SLOPE = Rotation.from_euler("x", np.arctan2(-6.0, 12.0)).as_matrix()  # of the line from centre to centre
TISSUE, SPREAD, RIM = 100.0, 25.0, 25.0
PARTS = (0.0, 76.0, 82.0)  # brightness by label; that of the background is drawn for every voxel


def generate_hippocampus_sample(output_dir: str | os.PathLike[str], num_volumes: int = 20, seed: int = 0) -> Path:
    """Write volumes like those of task 4 of the Medical Segmentation Decathlon, with exact labels.

    In each lies one long structure of two parts that touch, anterior (label 1) and posterior (label 2), with a bright
    rim. It is somewhat darker than the tissue around it but no darker than much of that; size, pose, brightness and
    bias field differ. Volumes have about 32 x 40 x 32 voxels of 1 mm; every third one has oblique axes. Files:
    ``imagesTr/hippocampus_001.nii.gz`` (int16) and ``labelsTr/hippocampus_001.nii.gz`` (uint8), numbered from 1, and
    ``hippocampus_sample.json`` with the settings. The same settings give the same voxels, and volume ``n`` depends on
    ``seed`` only.

    Args:
        output_dir: folder to write; missing or empty, or written by an earlier call with the same settings, which is
            then left as it is.
        num_volumes: number of volumes, 1 to 999.
        seed: any integer from 0.

    Returns:
        The absolute path of ``output_dir``, which :func:`~monai_segdiff.data.decathlon.decathlon_split` can divide.

    Raises:
        DatasetError: for settings out of range, or when ``output_dir`` holds anything else or cannot be written.

    Example:
        >>> generate_hippocampus_sample("hippocampus", num_volumes=2)  # doctest: +SKIP
        PosixPath('/home/me/hippocampus')
    """
    root = absolute(output_dir)
    if not 1 <= num_volumes <= 999 or seed < 0:
        raise DatasetError(
            f"{root}: num_volumes={num_volumes}, seed={seed}; expected 1 to 999 volumes and a seed from 0."
        )

    def write(folder: Path) -> dict[str, object]:
        for name in ("imagesTr", "labelsTr"):
            (folder / name).mkdir()
        for n in range(1, num_volumes + 1):
            rng = np.random.default_rng((seed, n))
            affine = _affine(rng, oblique=n % 3 == 0)
            for name, voxels in zip(("imagesTr", "labelsTr"), _draw(rng), strict=True):
                volume = nib.Nifti1Image(voxels, affine)
                volume.set_sform(affine, code=1)
                volume.set_qform(affine, code=1)
                volume.header.set_xyzt_units("mm")
                nib.save(volume, folder / name / f"hippocampus_{n:03d}.nii.gz")
        return {}

    settings = {"format_version": FORMAT_VERSION, "num_volumes": num_volumes, "seed": seed}
    return prepare_folder(root, "hippocampus_sample.json", settings, write)


def _noise(rng: np.random.Generator, shape: tuple[int, ...], sigma: float) -> np.ndarray:
    """Smooth noise of mean 0 and standard deviation 1."""
    field = ndimage.gaussian_filter(rng.standard_normal(shape), sigma, mode="wrap")
    return (field - field.mean()) / field.std()


def _affine(rng: np.random.Generator, oblique: bool) -> np.ndarray:
    affine = np.eye(4)
    axis, angle = rng.standard_normal(3), np.deg2rad(rng.uniform(5, 12))
    if oblique:
        affine[:3, :3] = Rotation.from_rotvec(axis / np.linalg.norm(axis) * angle).as_matrix()
    affine[:3, 3] = rng.uniform(-30, 30, 3)
    return affine


def _draw(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw one volume: int16 [X, Y, Z] and its labels, uint8 [X, Y, Z]."""
    shape = tuple(rng.integers(SMALLEST, LARGEST, endpoint=True))
    points = np.moveaxis(np.indices(shape), 0, -1) - (np.array(shape) - 1) / 2 - rng.uniform(-2.5, 2.5, 3)
    points = points @ Rotation.from_rotvec(rng.normal(0, 0.15, 3)).as_matrix() / rng.uniform(0.9, 1.15)
    points += 0.7 * np.stack([_noise(rng, shape, 3.0) for _ in range(3)], axis=-1)  # outlines are no ellipsoids
    centres, radii = CENTRES + rng.uniform(-0.7, 0.7, (2, 3)), RADII * rng.uniform(0.88, 1.14, (2, 3))
    depth = [np.linalg.norm((points - c) @ SLOPE / r, axis=-1) for c, r in zip(centres, radii, strict=True)]
    label = np.where(np.minimum(*depth) < 1, np.where(depth[0] < depth[1], 1, 2), 0)

    image = np.choose(label, PARTS) + 5 * _noise(rng, shape, 1.0)
    rim = RIM * np.exp(-(((np.minimum(*depth) - 1.25) / 0.25) ** 2))
    image[label == 0] = (TISSUE + SPREAD * _noise(rng, shape, 2.5) + rim)[label == 0]
    image = ndimage.gaussian_filter(image, 0.6)
    image *= np.exp(0.1 * _noise(rng, shape, 12.0))
    image += rng.normal(0, 5, shape)
    image *= rng.uniform(1, 8)  # MR has no unit of brightness
    return np.clip(np.rint(image), 0, np.iinfo(np.int16).max).astype(np.int16), label.astype(np.uint8)
