# SPDX-License-Identifier: Apache-2.0
"""Segmentation of generated sample data, checked."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import nibabel as nib
import numpy as np
import torch
from PIL import Image

from ..data import generate_hippocampus_sample, generate_sample_dataset
from ..inferers import SegDiffInferer
from ..metrics import segmentation_scores
from ..networks import RespacedDDIMScheduler, SegDiffUNet

if TYPE_CHECKING:
    from ..predictor import SegDiffPredictor

__all__ = ["Check", "self_test"]

IMAGE_SIZE = 256
# What the generated images show, by their number of dimensions.
SAMPLE_LABELS = {2: {1: "nuclei"}, 3: {1: "anterior", 2: "posterior"}}


class Check(NamedTuple):
    """What was tried, whether it held (None: not judged), and what there is to say of it."""

    name: str
    passed: bool | None
    detail: str = ""


def self_test(device: str, predictor: SegDiffPredictor | None = None) -> Iterator[Check]:
    """Segment one generated image twice, then from two threads at once, and compare.

    Args:
        device: where the tiny network runs.
        predictor: what to test; None tests a tiny network with random weights.

    Yields:
        One check after another. Dice, where the bundle segments what the image shows, is not judged.

    Raises:
        Exception: whatever the segmentation raises.

    Example:
        >>> [check.passed for check in self_test("cpu")]
        [True, True, True]
    """
    if predictor is None:
        yield from _compare(_tiny(device))
        return
    spatial_dims = predictor.bundle.network.spatial_dims
    with tempfile.TemporaryDirectory() as folder:
        image, truth = _sample(Path(folder), spatial_dims)
        yield from _compare(lambda: predictor.predict(image).probability)
        mask = predictor.predict(image).mask
    yield Check("mask on the grid of the image", mask.shape == truth.shape, " x ".join(map(str, mask.shape)))
    if dict(predictor.bundle.labels) == SAMPLE_LABELS[spatial_dims]:
        for index, name in SAMPLE_LABELS[spatial_dims].items():
            found, true = mask == index, truth == index
            counts = (int((a & b).sum()) for a, b in ((found, true), (found, ~true), (~found, true)))
            dice = segmentation_scores(*counts)["dice"]
            yield Check(f"Dice of {name} {dice:.3f}", None, "of a generated image; says nothing about real ones")


def _compare(segment: Callable[[], np.ndarray]) -> Iterator[Check]:
    first = segment()
    yield Check("values finite", bool(np.isfinite(first).all()), f"{first.min():.3g} to {first.max():.3g}")
    yield Check("same bits again", np.array_equal(first, segment()))
    with ThreadPoolExecutor(2) as threads:
        results = [threads.submit(segment) for _ in range(2)]
        yield Check("same bits from two threads", all(np.array_equal(first, each.result()) for each in results))


def _tiny(device: str) -> Callable[[], np.ndarray]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = SegDiffUNet(
            spatial_dims=2,
            image_channels=3,
            mask_channels=1,
            channels=(32, 32),
            attention_levels=(False, False),
            num_res_blocks=1,
            num_rrdb_blocks=1,
            rrdb_channels=8,
            rrdb_growth_channels=4,
        )
        image = torch.randn(1, 3, 64, 64)
    network.to(device).eval()
    inferer = SegDiffInferer(RespacedDDIMScheduler(), num_inference_steps=2, num_generations=2)
    return lambda: inferer(image.to(device), network).cpu().numpy()


def _sample(folder: Path, spatial_dims: int) -> tuple[Path, np.ndarray]:
    """Write an image; return its path and its true class indices."""
    if spatial_dims == 2:
        generate_sample_dataset(folder, num_images=1, image_size=IMAGE_SIZE)
        name = "sample_000.png"
        return folder / "images" / name, np.asarray(Image.open(folder / "labels" / name)) // 255
    generate_hippocampus_sample(folder, num_volumes=1)
    name = "hippocampus_001.nii.gz"
    return folder / "imagesTr" / name, np.asarray(nib.Nifti1Image.from_filename(folder / "labelsTr" / name).dataobj)
