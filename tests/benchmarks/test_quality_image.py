# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.bundle import Bundle
from benchmarks.quality_image import QualityImage
from monai_segdiff.exceptions import AnnotationError, ImageError


@pytest.fixture
def entry(tmp_path: Path) -> dict[str, str]:
    """A picture 40 wide and 20 high, with its mask and numbered objects."""
    rng = np.random.default_rng(0)
    paths = {name: str(tmp_path / f"{name}.png") for name in ("image", "label", "instances")}
    instances = rng.integers(0, 3, (20, 40)).astype(np.uint8)
    Image.fromarray(rng.integers(0, 256, (20, 40, 3)).astype(np.uint8)).save(paths["image"])
    Image.fromarray(255 * (instances > 0).astype(np.uint8)).save(paths["label"])
    Image.fromarray(instances).save(paths["instances"])
    return {"name": "a", **paths}


def test_pictures_by_area_and_masks_by_nearest_neighbour(bundle: Bundle, entry: dict[str, str]) -> None:
    image = QualityImage.load(bundle, entry, 10)
    picture, instances = (np.asarray(Image.open(entry[name])) for name in ("image", "instances"))
    # Blocks of 2 rows and 4 columns; then x first.
    area = picture.reshape(10, 2, 10, 4, 3).mean((1, 3), dtype=np.float64)
    np.testing.assert_allclose(image.picture.numpy(), area.transpose(2, 1, 0), rtol=1e-5)
    # The pixel that holds the middle of a block: "nearest" alone would take its corner.
    nearest = instances[1::2, 2::4].T
    assert np.array_equal(image.instances[0].numpy(), nearest)
    assert np.array_equal(image.truth[0].numpy(), nearest > 0)
    assert image.truth.dtype == torch.bool
    assert all(type(part) is torch.Tensor for part in image)


def test_the_grid_is_not_that_of_the_bundle(bundle: Bundle, entry: dict[str, str]) -> None:
    one, half = (QualityImage.load(bundle.with_overrides({"image_scale": scale}), entry, 16) for scale in (1.0, 0.5))
    assert all(torch.equal(*parts) for parts in zip(one, half, strict=True))


def test_masks_are_those_of_the_evaluation(entry: dict[str, str]) -> None:
    """At the scale that gives the grid's size."""
    Image.open(entry["image"]).resize((40, 40)).save(entry["image"])
    Image.open(entry["label"]).resize((40, 40), Image.Resampling.NEAREST).save(entry["label"])
    Image.open(entry["instances"]).resize((40, 40), Image.Resampling.NEAREST).save(entry["instances"])
    own = Bundle({"device": "cpu", "score_scale": 0.4, "instances": True}).value("validate#preprocessing")(dict(entry))
    image = QualityImage.load(Bundle({"device": "cpu"}), entry, 16)
    assert torch.equal(image.truth, own["label"].as_tensor() > 0)
    assert torch.equal(image.instances, own["instances"].as_tensor().float())
    assert torch.equal(image.picture, own["picture"].as_tensor())


@pytest.mark.parametrize("name", ["image", "label", "instances"])
def test_damaged_files_are_named(bundle: Bundle, entry: dict[str, str], name: str) -> None:
    Path(entry[name]).write_bytes(b"nothing")
    with pytest.raises(ImageError, match=f"{name}.png"):
        QualityImage.load(bundle, entry, 10)


@pytest.mark.parametrize("name", ["label", "instances"])
def test_files_of_another_size_are_refused(bundle: Bundle, entry: dict[str, str], name: str) -> None:
    Image.open(entry[name]).crop((0, 0, 39, 20)).save(entry[name])
    with pytest.raises(AnnotationError, match=rf"{name}.png: has size \[39, 20\], expected \[40, 20\]"):
        QualityImage.load(bundle, entry, 10)
