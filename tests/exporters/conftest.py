# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from monai_segdiff import SegDiffUNet
from monai_segdiff.exporters import ExportedSegDiff, export_segdiff

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
    export_segdiff(network, folder, settings={"prediction_type": "sample"})
    return folder


@pytest.fixture(scope="session")
def onnx_exported(network: SegDiffUNet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "onnx"
    export_segdiff(network, folder, format="onnx", settings={"prediction_type": "sample"})
    return folder


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
def torch_loaded(torch_exported: Path) -> ExportedSegDiff:
    return ExportedSegDiff(torch_exported)


@pytest.fixture(scope="session")
def onnx_loaded(onnx_exported: Path) -> ExportedSegDiff:
    return ExportedSegDiff(onnx_exported)


@pytest.fixture(params=["torch_loaded", pytest.param("onnx_loaded", marks=NEEDS_ONNX)])
def loaded(request: pytest.FixtureRequest) -> ExportedSegDiff:
    """The export of ``network`` in each format, loaded again."""
    network: ExportedSegDiff = request.getfixturevalue(request.param)
    return network
