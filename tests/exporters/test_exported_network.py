# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import copy
import hashlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines import SupervisedEvaluator
from torch import nn

from monai_segdiff import (
    CategoricalScheduler,
    MaskPriorInferer,
    MaskPriorUNet,
    RespacedDDPMScheduler,
    SegDiffInferer,
    SegDiffUNet,
)
from monai_segdiff.exceptions import ExportError
from monai_segdiff.exporters import ExportedNetwork


def inferer(**changes: Any) -> SegDiffInferer:
    scheduler = RespacedDDPMScheduler(100, prediction_type="sample", clip_sample=True)
    arguments: dict[str, Any] = {"num_inference_steps": 3, "num_generations": 2, "roi_size": 16, "max_batch": 3}
    return SegDiffInferer(scheduler, **(arguments | changes))


def prior_inferer(num_classes: int = 3, **changes: Any) -> MaskPriorInferer:
    arguments: dict[str, Any] = {"num_inference_steps": 3, "num_generations": 2, "roi_size": 16, "max_batch": 3}
    return MaskPriorInferer(CategoricalScheduler(num_classes), **(arguments | changes))


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    return torch.randn(2, 3, 40, 28, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("roi_size", [16, None])
def test_samples_what_the_network_samples(
    network: SegDiffUNet, loaded: ExportedNetwork, image: torch.Tensor, roi_size: int | None
) -> None:
    sampler = inferer(roi_size=roi_size)
    expected = sampler.generations(image, network)
    assert expected.std() > 0.1
    torch.testing.assert_close(sampler.generations(image, loaded), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "sampling",
    [
        {"base_weight": 0.5, "include_background": False},
        {"start": "base_prediction"},
        {"num_inference_steps": 0},  # the base alone
    ],
    ids=str,
)
def test_refines_what_the_mask_prior_refines(
    exported_prior: tuple[MaskPriorUNet, Path], sampling: dict[str, Any]
) -> None:
    network, folder = exported_prior
    sampler = prior_inferer(roi_size=8, **sampling)
    image = torch.randn(2, 2, *(12, 16, 6)[: network.spatial_dims], generator=torch.Generator().manual_seed(1))
    found = sampler.generations(image, nn.DataParallel(ExportedNetwork(folder)))
    expected = sampler.generations(image, network)
    assert expected.std() > 0.01
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert torch.equal(found.argmax(dim=2), expected.argmax(dim=2))


def test_refuses_the_other_inferer(torch_loaded: ExportedNetwork, torch_prior: ExportedNetwork) -> None:
    with pytest.raises(TypeError, match="network must be a MaskPriorUNet"):
        prior_inferer()(torch.zeros(1, 3, 16, 16), torch_loaded)
    with pytest.raises(TypeError, match="use MaskPriorInferer"):
        inferer()(torch.zeros(1, 2, 16, 16), torch_prior)


def test_refuses_schedulers_of_other_classes(torch_prior: ExportedNetwork) -> None:
    with pytest.raises(ValueError, match="network has 3 classes, expected the scheduler's 2"):
        prior_inferer(2)(torch.zeros(1, 2, 16, 16), torch_prior)


def test_copies_work_alone(torch_prior: ExportedNetwork) -> None:
    copied = copy.deepcopy(torch_prior)
    assert copied.base_logits.__self__ is copied  # type: ignore[union-attr]


def test_labels_of_any_type(torch_prior: ExportedNetwork) -> None:
    features = torch_prior.encode_image(torch.zeros(1, 2, 8, 16))
    x = torch.randint(4, (1, 1, 8, 16), generator=torch.Generator().manual_seed(0))
    expected = torch_prior(x, torch.tensor([7]), features)
    assert torch.equal(torch_prior(MetaTensor(x).float(), torch.tensor([7]), features), expected)
    assert torch.equal(torch_prior(x.to(torch.uint8), torch.tensor([7]), features), expected)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.full((1, 1, 8, 16), 4), r"x must hold labels 0\.\.3, found \[4\.0\]"),
        (torch.full((1, 1, 8, 16), -1), r"x must hold labels 0\.\.3, found \[-1\.0\]"),
        (torch.full((1, 1, 8, 16), 0.5), r"x must hold labels 0\.\.3, found \[0\.5\]"),
        (torch.full((1, 1, 8, 16), float("nan")), r"x must hold labels 0\.\.3, found \[nan"),
        (torch.zeros(1, 3, 8, 16), r"x must have shape \[B, 1, 2 spatial sizes\], found \[1, 3, 8, 16\]"),
        (torch.zeros(1, 1, 8, 17), r"multiples of 2, at least 4, found \[8, 17\]; \[8, 18\] would do"),
        (torch.zeros(1, 1, 16, 16), r"image_features must have shape \[1, 17, 8, 8\], found \[1, 17, 4, 8\]"),
    ],
)
def test_bad_labels(torch_prior: ExportedNetwork, x: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        torch_prior(x, torch.tensor([7]), torch.zeros(1, 17, 4, 8))


def test_same_bits_for_any_other_images_in_the_batch(loaded: ExportedNetwork, image: torch.Tensor) -> None:
    assert torch.equal(inferer()(image, nn.DataParallel(loaded))[1:], inferer()(image[1:], loaded))


def test_serves_as_the_network_of_an_engine(network: SegDiffUNet, loaded: ExportedNetwork, image: torch.Tensor) -> None:
    assert list(loaded.state_dict()) == []
    engine = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Dataset([{"image": image[0]}]), batch_size=1),
        network=loaded.train(),
        inferer=inferer(),
    )
    engine.run()
    found = engine.state.output[0]["pred"].as_subclass(torch.Tensor)
    torch.testing.assert_close(found, inferer()(image[:1], network)[0], atol=1e-4, rtol=0)


@torch.no_grad()
def test_autocast(network: SegDiffUNet, loaded: ExportedNetwork, image: torch.Tensor) -> None:
    x, timesteps, expected = torch.cat([image[:, :1]] * 2), torch.tensor([7]), torch.cat([image] * 2)
    expected = network(x, timesteps, context=expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = loaded.encode_image(torch.cat([image] * 2))
        output = loaded(x, timesteps, image_features=features)
    assert output.dtype in (torch.float32, torch.bfloat16)
    torch.testing.assert_close(output.float(), expected, atol=0.1 * float(expected.abs().max()), rtol=0)


def test_any_type_and_layout(loaded: ExportedNetwork, image: torch.Tensor) -> None:
    x = image[:, :1]
    features = loaded.encode_image(image.clone().requires_grad_())
    assert (features.requires_grad, features.dtype) == (False, torch.float32)
    output = loaded(x, torch.tensor([7]), features)
    assert torch.equal(loaded.encode_image(MetaTensor(image).double()), features)
    assert torch.equal(loaded.encode_image(image.to(memory_format=torch.channels_last)), features)
    assert type(loaded.encode_image(MetaTensor(image))) is torch.Tensor
    for dtype in (torch.int32, torch.float32):
        assert torch.equal(loaded(x, torch.tensor([7], dtype=dtype), image_features=features), output)
    assert not torch.allclose(loaded(x, torch.tensor([8]), features), output, atol=1e-4)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ((1, 4, 16, 16), r"image must have shape \[B, 3, 2 spatial sizes\], found \[1, 4, 16, 16\]"),
        ((1, 3, 16, 16, 16), r"found \[1, 3, 16, 16, 16\]"),
        ((1, 3, 18, 16), r"multiples of 4, at least 8, found \[18, 16\]; \[20, 16\] would do"),
        ((1, 3, 16, 4), r"multiples of 4, at least 8, found \[16, 4\]; \[16, 8\] would do"),
        ((1, 3, 0, 16), r"found \[0, 16\]; \[8, 16\] would do"),
    ],
)
def test_bad_images(torch_loaded: ExportedNetwork, image: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        torch_loaded.encode_image(torch.zeros(image))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": torch.zeros(2, 3, 16, 16)}, r"x must have shape \[B, 1, 2 spatial sizes\], found \[2, 3, 16, 16\]"),
        ({"x": torch.zeros(2, 1, 16, 10)}, r"multiples of 4, at least 8, found \[16, 10\]"),
        ({"x": torch.zeros(1, 1, 16, 16)}, r"shape \[1, 8, 8, 8\], found \[2, 8, 8, 8\]"),
        ({"image_features": torch.zeros(2, 8, 16, 16)}, r"shape \[2, 8, 8, 8\], found \[2, 8, 16, 16\]"),
        ({"timesteps": torch.tensor([5, 5])}, r"one whole number of shape \[1\], found \[5, 5\]"),
        ({"timesteps": torch.tensor(5)}, r"of shape \[1\], found 5\."),
        ({"timesteps": torch.tensor([5.5])}, r"of shape \[1\], found \[5\.5\]"),
    ],
)
def test_bad_input(torch_loaded: ExportedNetwork, changes: dict[str, torch.Tensor], message: str) -> None:
    given = {"x": torch.zeros(2, 1, 16, 16), "timesteps": torch.tensor([5]), "image_features": torch.zeros(2, 8, 8, 8)}
    with pytest.raises(ValueError, match=message):
        torch_loaded(**(given | changes))


# Each damages an export and returns the path that the message must name.


def no_folder(folder: Path) -> Path:
    shutil.rmtree(folder)
    return folder


def no_settings(folder: Path) -> Path:
    (folder / "export.json").unlink()
    return folder / "export.json"


def broken_settings(folder: Path) -> Path:
    (folder / "export.json").write_text("{")
    return folder / "export.json"


def binary_settings(folder: Path) -> Path:
    (folder / "export.json").write_bytes(b"\xff\xfe\x00")
    return folder / "export.json"


def other_settings(folder: Path) -> Path:
    (folder / "export.json").write_text('{"format": "onnx"}')
    return folder / "export.json"


def listed_settings(folder: Path) -> Path:
    (folder / "export.json").write_text("[]")
    return folder / "export.json"


def unknown_network(folder: Path) -> Path:
    change(folder, network={"class": "UNet"})
    return folder / "export.json"


def unknown_format(folder: Path) -> Path:
    change(folder, format="tensorrt")
    return folder / "export.json"


def no_encoder(folder: Path) -> Path:
    (folder / "encoder.pt2").unlink()
    return folder / "encoder.pt2"


def flipped_bit(folder: Path) -> Path:
    data = bytearray((folder / "denoiser.pt2").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "denoiser.pt2").write_bytes(data)
    return folder / "denoiser.pt2"


def swapped(folder: Path) -> Path:
    (folder / "denoiser.pt2").rename(folder / "a")
    (folder / "encoder.pt2").rename(folder / "denoiser.pt2")
    (folder / "a").rename(folder / "encoder.pt2")
    return folder / "denoiser.pt2"


def of_another_version(folder: Path) -> Path:
    data = b"what PyTorch 9 writes"
    (folder / "encoder.pt2").write_bytes(data)
    settings = json.loads((folder / "export.json").read_text())
    change(folder, torch_version="9.0", sha256=settings["sha256"] | {"encoder.pt2": hashlib.sha256(data).hexdigest()})
    return folder / "encoder.pt2"


def change(folder: Path, **changes: Any) -> None:
    path = folder / "export.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (no_folder, "holds no export"),
        (no_settings, "holds no export"),
        (broken_settings, "cannot be read"),
        (binary_settings, "cannot be read"),
        (other_settings, "is not the settings of an export"),
        (listed_settings, "is not the settings of an export"),
        (unknown_network, "another version wrote it"),
        (unknown_format, "unknown format 'tensorrt'"),
        (no_encoder, "the export is incomplete"),
        (flipped_bit, "is damaged or belongs to another export: expected SHA-256"),
        (swapped, "is damaged or belongs to another export: expected SHA-256"),
        (of_another_version, r"written by PyTorch 9.0, cannot be read by 2\."),
    ],
)
@pytest.mark.filterwarnings("ignore:.*:UserWarning:torch.export")
def test_damaged_exports(torch_exported: Path, tmp_path: Path, damage: Callable[[Path], Path], message: str) -> None:
    folder = tmp_path / "export"
    shutil.copytree(torch_exported, folder)
    path = damage(folder)
    with pytest.raises(ExportError, match=message) as caught:
        ExportedNetwork(folder)
    assert str(path) in str(caught.value)


def test_onnx_without_its_runtime(torch_exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "export"
    shutil.copytree(torch_exported, folder)
    change(folder, format="onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match=r"onnxruntime: pip install 'monai_segdiff\[export\]'"):
        ExportedNetwork(folder)


def test_onnx_that_the_runtime_cannot_read(torch_exported: Path, tmp_path: Path, onnx_format: str) -> None:
    folder = tmp_path / "export"
    shutil.copytree(torch_exported, folder)
    change(folder, format=onnx_format)
    with pytest.raises(ExportError, match="cannot be read by ONNX Runtime") as caught:
        ExportedNetwork(folder)
    assert str(folder / "encoder.pt2") in str(caught.value)
