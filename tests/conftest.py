# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser

BUNDLES = Path(__file__).parents[1] / "bundles"
TINY_SEGDIFF = {
    "network_def#channels": [32, 32],
    "network_def#attention_levels": [False, False],
    "network_def#num_res_blocks": 1,
    "network_def#num_rrdb_blocks": 1,
    "network_def#rrdb_channels": 8,
    "network_def#rrdb_growth_channels": 4,
    "window_size": 32,
}
TINY_PRIOR = {
    "network_def#channels": [8, 8],
    "network_def#attention_levels": [False, False],
    "network_def#num_head_channels": 8,
    "network_def#condition_channels": 8,
    "base_network_def#channels": [4, 8],
    "base_network_def#strides": [2],
    "base_network_def#num_res_units": 0,
}


def write_tiny_bundle(name: str, folder: Path, changes: dict[str, Any], scale: float) -> Path:
    """A bundle of this project with a small network and random weights, whose masks are neither empty nor full."""
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    parser = ConfigParser(json.loads((BUNDLES / name / "configs" / "inference.json").read_text()))
    parser.update(changes)
    (folder / "configs" / "inference.json").write_text(json.dumps(parser.config, indent=4))
    (folder / "configs" / "metadata.json").write_bytes((BUNDLES / name / "configs" / "metadata.json").read_bytes())
    state = parser.get_parsed_content("network_def").state_dict()
    generator = torch.Generator().manual_seed(0)
    for key, value in state.items():
        value.copy_(scale * torch.randn(value.shape, generator=generator))
        value.add_(0.5 if "norm" in key and "weight" in key else 0)
    torch.save(state, folder / "models" / "model.pt")
    return folder


@pytest.fixture(scope="session")
def picture_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a small bundle for nuclei."""
    changes = {**TINY_SEGDIFF, "image_scale": 0.512}
    return write_tiny_bundle("monuseg", tmp_path_factory.mktemp("tiny") / "nuclei", changes, 0.1)


@pytest.fixture(scope="session")
def volume_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a small bundle for MR volumes, three classes."""
    return write_tiny_bundle("hippocampus", tmp_path_factory.mktemp("tiny") / "volumes", TINY_PRIOR, 0.3)


@pytest.fixture(scope="session")
def prior_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a small bundle for nuclei with a mask prior, the fastest of these."""
    changes = {**TINY_PRIOR, "window_size": 512}
    return write_tiny_bundle("monuseg_ddps", tmp_path_factory.mktemp("tiny") / "nuclei_ddps", changes, 0.3)
