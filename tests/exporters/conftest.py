# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.networks.nets import UNet
from torch import nn

from monai_segdiff import BaseSegmentor, MaskPriorUNet, SegDiffUNet
from monai_segdiff.exporters import ExportedNetwork, export_network

ExportedPrior = tuple[MaskPriorUNet, Path]
MISSING = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
NEEDS_ONNX = [
    pytest.mark.skipif(bool(MISSING), reason=f"without {', '.join(MISSING)}: pip install 'monai_segdiff[export]'"),
    # Of torch.onnx, about its own future.
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*:FutureWarning"),
]


def build(spatial_dims: int = 2, **changes: Any) -> SegDiffUNet:
    """Return a small network in which no layer is zero, so that everything shows in the output."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        arguments = {"image_channels": 3, "mask_channels": 1, "channels": (8, 16), "attention_levels": (False, True)}
        arguments |= {"num_res_blocks": 1, "num_rrdb_blocks": 1, "rrdb_channels": 4, "rrdb_growth_channels": 2}
        network = SegDiffUNet(spatial_dims, norm_num_groups=4, **(arguments | changes))  # type: ignore[arg-type]
        for parameter in network.parameters():
            if not parameter.any():
                nn.init.normal_(parameter, std=0.1)
        return network.eval()


def build_prior(spatial_dims: int = 2, **changes: Any) -> MaskPriorUNet:
    """Return a small mask prior for 3 classes; the features of its base are finer than what it works on."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = UNet(spatial_dims, 2, 3, channels=(4, 8, 8), strides=(1, 2))
        base = BaseSegmentor(unet, spatial_dims, 2, 3, size_divisor=2, probe_size=8)
        arguments = {"channels": (8,), "attention_levels": (False,), "num_res_blocks": 1, "condition": "both"}
        arguments |= {"condition_channels": 5, "embedding_channels": 2, "patch_size": 2, "norm_num_groups": 4}
        network = MaskPriorUNet(base, num_head_channels=8, **(arguments | changes))
        for parameter in network.parameters():
            if not parameter.any():
                nn.init.normal_(parameter, std=0.1)
        return network.eval()


@pytest.fixture(scope="session")
def tiny() -> Callable[..., SegDiffUNet]:
    return build


@pytest.fixture(scope="session")
def network() -> SegDiffUNet:
    return build(patch_size=2)


@pytest.fixture(scope="session")
def torch_exported(network: SegDiffUNet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with an export of ``network``."""
    folder = tmp_path_factory.mktemp("exported") / "torch_export"
    export_network(network, folder, settings={"prediction_type": "sample"})
    return folder


@pytest.fixture(scope="session")
def onnx_exported(network: SegDiffUNet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "onnx"
    export_network(network, folder, format="onnx", settings={"prediction_type": "sample"})
    return folder


@pytest.fixture(
    scope="session",
    params=[(2, "torch_export"), (3, "torch_export"), *(pytest.param((n, "onnx"), marks=NEEDS_ONNX) for n in (2, 3))],
    ids=lambda value: f"{value[0]}-{value[1]}",
)
def exported_prior(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ExportedPrior:
    """A small mask prior for pictures or for volumes, and the folder with its export in each format."""
    spatial_dims, format = request.param
    network = build_prior(2, latent_stride=2, num_states=4) if spatial_dims == 2 else build_prior(3)
    folder = tmp_path_factory.mktemp("exported") / "prior"
    export_network(network, folder, format=format)
    return network, folder


@pytest.fixture(scope="session")
def torch_prior(tmp_path_factory: pytest.TempPathFactory) -> ExportedNetwork:
    """The export of a mask prior whose labels have the size of the image, loaded again."""
    folder = tmp_path_factory.mktemp("exported") / "prior"
    export_network(build_prior(condition="prediction", num_states=4), folder)
    return ExportedNetwork(folder)


@pytest.fixture(params=["torch_export", pytest.param("onnx", marks=NEEDS_ONNX)])
def any_format(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=[pytest.param("onnx", marks=NEEDS_ONNX)])
def onnx_format(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=["torch_exported", pytest.param("onnx_exported", marks=NEEDS_ONNX)])
def exported(request: pytest.FixtureRequest) -> Path:
    """Folder with an export of ``network``, in each format."""
    folder: Path = request.getfixturevalue(request.param)
    return folder


@pytest.fixture(scope="session")
def torch_loaded(torch_exported: Path) -> ExportedNetwork:
    return ExportedNetwork(torch_exported)


@pytest.fixture(scope="session")
def onnx_loaded(onnx_exported: Path) -> ExportedNetwork:
    return ExportedNetwork(onnx_exported)


@pytest.fixture(params=["torch_loaded", pytest.param("onnx_loaded", marks=NEEDS_ONNX)])
def loaded(request: pytest.FixtureRequest) -> ExportedNetwork:
    """The export of ``network`` in each format, loaded again."""
    network: ExportedNetwork = request.getfixturevalue(request.param)
    return network
