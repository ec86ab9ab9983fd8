# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
# The benchmarks are no part of the installed package; commands find them because they start in the repository.
sys.path.insert(0, str(ROOT))

from benchmarks.bundle import Bundle  # noqa: E402
from monai_segdiff import generate_sample_dataset  # noqa: E402

TINY = {
    "network_def#channels": [32, 32],
    "network_def#attention_levels": [False, False],
    "network_def#num_res_blocks": 1,
    "network_def#num_rrdb_blocks": 1,
    "network_def#rrdb_channels": 8,
    "network_def#rrdb_growth_channels": 4,
    "image_scale": 1.0,
    "window_size": 64,
    "device": "cpu",
}


@pytest.fixture(scope="session")
def tiny() -> dict[str, object]:
    """Overrides that make the bundle's network and windows small."""
    return dict(TINY)


@pytest.fixture(scope="session")
def words(tiny: dict[str, object]) -> list[str]:
    """The same overrides on a command line."""
    return ["--override", *(f"{name}={value}".replace("False", "false") for name, value in tiny.items())]


@pytest.fixture(scope="session")
def bundle(tiny: dict[str, object]) -> Bundle:
    """The bundle with a tiny network."""
    return Bundle(tiny)


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three images of 96 pixels: four windows without overlap."""
    return generate_sample_dataset(tmp_path_factory.mktemp("data"), num_images=3, image_size=96)


@pytest.fixture(scope="session")
def weights(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights whose masks are neither empty nor full."""
    generator = torch.Generator().manual_seed(0)
    state = {
        name: 0.1 * torch.randn(value.shape, generator=generator) + (0.5 if "norm" in name and "weight" in name else 0)
        for name, value in bundle.network().state_dict().items()
    }
    path = tmp_path_factory.mktemp("weights") / "model.pt"
    torch.save(state, path)
    return path
