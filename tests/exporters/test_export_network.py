# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import copy
import hashlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from monai_segdiff import MaskPriorUNet, SegDiffUNet
from monai_segdiff.exceptions import ExportError
from monai_segdiff.exporters import export_network

Tiny = Callable[..., SegDiffUNet]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def runners(folder: Path, written: dict[str, Any]) -> list[Callable[..., torch.Tensor]]:
    """Load the files as a user does who has nothing of this package."""
    paths = [str(folder / written[part]["file"]) for part in ("encoder", "denoiser")]
    if written["format"] == "torch_export":
        return [torch.export.load(path).module() for path in paths]
    import onnx
    import onnxruntime

    def session(path: str) -> Callable[..., torch.Tensor]:
        onnx.checker.check_model(path, full_check=True)
        run = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        inputs = [node.name for node in run.get_inputs()]
        return lambda *given: torch.from_numpy(
            run.run(None, {name: tensor.numpy() for name, tensor in zip(inputs, given, strict=True)})[0]
        )

    return [session(path) for path in paths]


def check_files(network: SegDiffUNet | MaskPriorUNet, folder: Path, written: dict[str, Any]) -> None:
    """Compare at batches, sizes and timesteps that the export itself did not try."""
    encode, denoise = runners(folder, written)
    generator = torch.Generator().manual_seed(1)
    for batch, multiples in ((1, (2, 2, 2)), (1, (4, 3, 2)), (5, (3, 6, 2))):
        size = [multiple * network.size_divisor for multiple in multiples[: network.spatial_dims]]
        image = torch.randn(batch, network.image_channels, *size, generator=generator)
        if isinstance(network, MaskPriorUNet):
            x = network.to_latent(torch.randint(network.num_states, (batch, 1, *size), generator=generator))
        else:
            x = torch.randn(batch, network.mask_channels, *size, generator=generator)
        with torch.no_grad():
            features = network.encode_image(image)
            torch.testing.assert_close(encode(image), features, atol=1e-5, rtol=0)
            for timestep in (1, 500):
                timesteps = torch.tensor([timestep])
                expected = network(x, timesteps, image_features=features)
                torch.testing.assert_close(denoise(x, timesteps, features), expected, atol=1e-4, rtol=0)


FLAT = {"channels": (8,), "attention_levels": (False,)}
OTHER_ENCODER = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8))


@pytest.mark.parametrize(
    ("changes", "roi_size", "traced"),
    [
        ({"spatial_dims": 3, "patch_size": 2, "image_channels": 2, "mask_channels": 2}, None, (16, 16, 16)),
        (
            {
                "channels": (8, 8, 16),
                "attention_levels": (False, False, True),
                "use_flash_attention": False,
                "conditioning": "add_after_down_2",  # features a quarter as large
            },
            8,  # the least
            (8, 8),
        ),
        (
            {**FLAT, "mask_channels": 3, "image_encoder": OTHER_ENCODER, "conditioning": "concat_features"},
            (5, 2),
            (5, 2),
        ),
    ],
    ids=["volume", "deep", "flat"],
)
def test_torch_export_computes_what_the_network_does(
    tiny: Tiny, tmp_path: Path, changes: dict[str, Any], roi_size: Any, traced: tuple[int, ...]
) -> None:
    network = tiny(**changes)
    written = export_network(network, tmp_path / "export", roi_size=roi_size)
    one, other = (tuple(shape[2:]) for shape in written["parity"]["image_shapes"])
    assert one == traced
    assert all(least != size for least, size in zip(other, one, strict=True))
    check_files(network, tmp_path / "export", written)


# What `export.json` says of a mask prior, by spatial dimensions.
PRIORS = {
    2: {
        "constants": {"feature_stride": 4, "size_divisor": 4, "latent_stride": 2, "num_states": 4},
        "image": ["batch", 2, "4*size_0", "4*size_1"],
        "features": ["batch", 5 + 3 * 4**2, "size_0", "size_1"],
        "x": ["batch", 1, "2*size_0", "2*size_1"],
        "output": ["batch", 3, "2*size_0", "2*size_1"],
    },
    3: {
        "constants": {"feature_stride": 2, "size_divisor": 2, "latent_stride": 1, "num_states": 3},
        "image": ["batch", 2, "2*size_0", "2*size_1", "2*size_2"],
        "features": ["batch", 5 + 3 * 2**3, "size_0", "size_1", "size_2"],
        "x": ["batch", 1, "2*size_0", "2*size_1", "2*size_2"],
        "output": ["batch", 3, "2*size_0", "2*size_1", "2*size_2"],
    },
}


def test_mask_priors(exported_prior: tuple[MaskPriorUNet, Path]) -> None:
    network, folder = exported_prior
    written = json.loads((folder / "export.json").read_text())
    check_files(network, folder, written)
    expected: dict[str, Any] = PRIORS[network.spatial_dims]
    assert written["network"] == expected["constants"] | {
        "class": "MaskPriorUNet",
        "spatial_dims": network.spatial_dims,
        "image_channels": 2,
        "mask_channels": 3,
        "condition_channels": 5,
        "num_classes": 3,
    }
    inputs = {"x": expected["x"], "timesteps": [1], "image_features": expected["features"]}
    assert written["encoder"]["inputs"] == {"image": expected["image"]}
    assert written["encoder"]["outputs"] == {"image_features": expected["features"]}
    assert (written["denoiser"]["inputs"], written["denoiser"]["outputs"]) == (inputs, {"output": expected["output"]})
    if written["format"] == "torch_export":
        encoder, denoiser = (
            set(torch.export.load(folder / f"{part}.pt2").state_dict) for part in ("encoder", "denoiser")
        )
        assert encoder | denoiser == {f"network.{name}" for name in network.state_dict()}
        assert not encoder & denoiser


def test_volume_as_onnx(tiny: Tiny, tmp_path: Path, onnx_format: str) -> None:
    network = tiny(3, **FLAT, patch_size=2, mask_channels=2)
    check_files(network, tmp_path / "export", export_network(network, tmp_path / "export", format=onnx_format))


def test_both_formats(network: SegDiffUNet, exported: Path) -> None:
    """As with ``test_torch_export_computes_what_the_network_does``, and what ``export.json`` says is so."""
    written = json.loads((exported / "export.json").read_text())
    check_files(network, exported, written)
    assert written["format"] == exported.name
    assert written["torch_version"] == torch.__version__
    assert ("opset_version" in written) == (exported.name == "onnx")
    suffix = {"torch_export": ".pt2", "onnx": ".onnx"}[exported.name]
    assert names(exported) == sorted([f"encoder{suffix}", f"denoiser{suffix}", "export.json"])
    assert written["sha256"] == {
        name: hashlib.sha256(data).hexdigest() for name, data in content(exported).items() if name != "export.json"
    }
    features = ["batch", 8, "2*size_0", "2*size_1"]
    assert written["encoder"] == {
        "file": f"encoder{suffix}",
        "inputs": {"image": ["batch", 3, "4*size_0", "4*size_1"]},
        "outputs": {"image_features": features},
    }
    mask = ["batch", 1, "4*size_0", "4*size_1"]
    assert written["denoiser"] == {
        "file": f"denoiser{suffix}",
        "inputs": {"x": mask, "timesteps": [1], "image_features": features},
        "outputs": {"output": mask},
    }
    assert written["network"] == {
        "class": "SegDiffUNet",
        "spatial_dims": 2,
        "image_channels": 3,
        "mask_channels": 1,
        "feature_stride": 2,
        "size_divisor": 4,
    }
    assert written["feature_channels"] == 8
    assert written["weights"] == {"prediction_type": "sample"}
    parity = written["parity"]
    assert parity["tolerance"] == 1e-4
    assert parity["image_shapes"] == [[1, 3, 16, 16], [3, 3, 8, 12]]
    assert set(parity["largest_difference"]) == {"image_features", "output"}
    assert all(0 <= value <= 1e-4 for value in parity["largest_difference"].values())
    assert all(value > 0.1 for value in parity["largest_value"].values())
    if exported.name == "onnx":
        import onnx

        for part in ("encoder", "denoiser"):
            graph = onnx.load(exported / written[part]["file"]).graph
            for kind, nodes in (("inputs", graph.input), ("outputs", graph.output)):
                found = {
                    node.name: [d.dim_param or d.dim_value for d in node.type.tensor_type.shape.dim] for node in nodes
                }
                assert found == written[part][kind]


def test_files_hold_their_own_weights_only(network: SegDiffUNet, torch_exported: Path) -> None:
    encoder, denoiser = (
        torch.export.load(torch_exported / f"{part}.pt2").state_dict for part in ("encoder", "denoiser")
    )
    assert len(encoder) == len(network.image_encoder.state_dict())
    assert len(denoiser) == len(network.state_dict()) - len(encoder)


def test_the_network_and_the_process_are_left_alone(
    tiny: Tiny, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    network = tiny(**FLAT, dropout=0.5).to(torch.bfloat16).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    network.mask_encoder.eval()
    network.unet.requires_grad_(False)
    before = copy.deepcopy(network)
    random, threads = torch.get_rng_state(), torch.get_num_threads()
    written = export_network(nn.DataParallel(network), tmp_path / "export")
    assert torch.equal(torch.get_rng_state(), random)
    assert (torch.get_num_threads(), torch.is_grad_enabled()) == (threads, True)
    assert capfd.readouterr() == ("", "")
    assert [m.training for m in network.modules()] == [m.training for m in before.modules()]
    for found, expected in zip(network.parameters(), before.parameters(), strict=True):
        assert torch.equal(found, expected)
        assert (found.dtype, found.requires_grad, found.stride()) == (
            torch.bfloat16,
            expected.requires_grad,
            expected.stride(),
        )
        assert found.grad is None
    check_files(copy.deepcopy(network).float().eval(), tmp_path / "export", written)


class Different(nn.Module):
    """Computes something else when exported."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.conv(image) + 0.01 * torch.compiler.is_exporting()


class Branching(nn.Module):
    """Depends on the values of its input in a way that cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.conv(image) if image.mean() > 0 else self.conv(-image)


def different(network: SegDiffUNet) -> None:
    network.image_encoder = Different()


def branching(network: SegDiffUNet) -> None:
    network.image_encoder = Branching()


def damaged(network: SegDiffUNet) -> None:
    nn.init.constant_(network.mask_encoder.conv.bias, float("nan"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (different, r"image_features of shape \[1, 8, 4, 4\] differs by 0.01, more than tolerance=0.0001"),
        (branching, "The encoder cannot be exported as 'torch_export'"),
        (damaged, r"output of shape \[1, 1, 4, 4\] differs by nan"),
    ],
)
def test_a_failed_export_leaves_the_earlier_one_and_nothing_else(
    tiny: Tiny, tmp_path: Path, change: Callable[[SegDiffUNet], None], message: str
) -> None:
    folder = tmp_path / "export"
    folder.mkdir()
    (folder / "encoder.pt2").write_text("earlier")
    network = tiny(**FLAT)
    change(network)
    with pytest.raises(ExportError, match=message):
        export_network(network, folder)
    assert content(folder) == {"encoder.pt2": b"earlier"}
    assert names(tmp_path) == ["export"]


def test_a_good_export_takes_the_place_of_an_earlier_one(tiny: Tiny, tmp_path: Path, monkeypatch: Any) -> None:
    folder = tmp_path / "export"
    folder.mkdir()
    for name in ("export.json", "encoder.onnx", "denoiser.onnx", "denoiser.onnx.data"):
        (folder / name).write_text("old")
    old, replace = content(folder), os.replace

    def fail_for_the_new(source: Path, target: Path) -> None:
        if Path(source, "encoder.pt2").exists():
            raise PermissionError("busy")
        replace(source, target)

    network = tiny(**FLAT)
    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", fail_for_the_new)
        with pytest.raises(PermissionError, match="busy"):
            export_network(network, folder)
    assert (content(folder), names(tmp_path)) == (old, ["export"])
    export_network(network, folder)
    assert (names(folder), names(tmp_path)) == (["denoiser.pt2", "encoder.pt2", "export.json"], ["export"])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"network": nn.Conv2d(3, 1, 1)}, TypeError, r"one of \['SegDiffUNet', 'MaskPriorUNet'\], found Conv2d"),
        ({"format": "torchscript"}, ValueError, r"one of \['torch_export', 'onnx'\], found 'torchscript'"),
        ({"tolerance": -1e-4}, ValueError, "tolerance must be at least 0, found -0.0001"),
        ({"tolerance": float("nan")}, ValueError, "tolerance must be at least 0, found nan"),
        ({"roi_size": 18}, ValueError, r"multiples of 4, at least 8, found \[18, 18\]; \[20, 20\] would do"),
        ({"roi_size": (16, 4)}, ValueError, r"multiples of 4, at least 8, found \[16, 4\]; \[16, 8\] would do"),
        ({"roi_size": -16}, ValueError, r"found \[-16, -16\]; \[8, 8\] would do"),
        ({"roi_size": 0}, ValueError, r"found \[0, 0\]; \[8, 8\] would do"),
        ({"roi_size": (16, 16, 16)}, ValueError, r"roi_size must have 2 sizes, found \[16, 16, 16\]"),
    ],
)
def test_bad_arguments(
    network: SegDiffUNet, tmp_path: Path, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        export_network(**({"network": network, "output_dir": tmp_path / "export"} | arguments))
    assert names(tmp_path) == []


def a_file(folder: Path) -> None:
    folder.write_text("mine")


def foreign_files(folder: Path) -> None:
    folder.mkdir()
    for name in ("export.json", "notes.txt"):
        (folder / name).write_text("mine")


@pytest.mark.parametrize(("make", "message"), [(a_file, "is a file"), (foreign_files, r"holds \['notes.txt'\]")])
def test_other_content_is_never_replaced(
    network: SegDiffUNet, tmp_path: Path, make: Callable[[Path], None], message: str
) -> None:
    make(tmp_path / "export")
    with pytest.raises(ExportError, match=message) as caught:
        export_network(network, tmp_path / "export")
    assert str(tmp_path / "export") in str(caught.value)
    assert names(tmp_path) == ["export"]


def test_missing_packages_are_named(network: SegDiffUNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("onnxscript", "onnxruntime"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"onnxscript, onnxruntime: pip install 'monai_segdiff\[export\]'"):
        export_network(network, tmp_path / "export", format="onnx")
    assert names(tmp_path) == []
