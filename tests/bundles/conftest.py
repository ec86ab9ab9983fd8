# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.utils import set_determinism

from monai_segdiff.data import generate_hippocampus_sample, generate_sample_dataset

ROOT = Path(__file__).parents[2]
BUNDLE = ROOT / "bundles" / "monuseg"
TINY = {
    "network_def#channels": [32, 32],
    "network_def#attention_levels": [False, False],
    "network_def#num_res_blocks": 1,
    "network_def#num_rrdb_blocks": 1,
    "network_def#rrdb_channels": 8,
    "network_def#rrdb_growth_channels": 4,
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
SAMPLING = {"image_scale": 1.0, "window_size": 64, "num_inference_steps": 2, "device": "cpu"}
TRAINING = {"crop_size": 32, "max_epochs": 2, "val_interval": 1}
SCORING = {"score_scale": 1.0}
STAGES = {"base_epochs": 2, "max_epochs": 2, "val_interval": 1, "single_step_epochs": 1, "warmup_iterations": 0}


@dataclass
class Bundle:
    """A bundle with a tiny network, on a tiny dataset."""

    dataset: Path
    weights: Path
    root: Path = ROOT
    folder: Path = BUNDLE
    configs: Path = BUNDLE / "configs"
    tiny: dict[str, Any] = field(default_factory=TINY.copy)
    sampling: dict[str, Any] = field(default_factory=SAMPLING.copy)
    training: dict[str, Any] = field(default_factory=TRAINING.copy)
    scoring: dict[str, Any] = field(default_factory=SCORING.copy)

    def settings(self, names: str, **overrides: Any) -> dict[str, Any]:
        """Overrides for config files, named as in "train evaluate"."""
        training = self.training if "train" in names.split() else {}
        scoring = self.scoring if "evaluate" in names.split() else {}
        return {**self.tiny, **self.sampling, **training, **scoring, "dataset_dir": str(self.dataset), **overrides}

    def files(self, names: str) -> list[str]:
        return [str(self.configs / f"{name}.json") for name in names.split()]

    def workflow(self, names: str, kind: str | None = None, **overrides: Any) -> ConfigWorkflow:
        return ConfigWorkflow(
            config_file=self.files(names),
            logging_file=False,
            workflow_type=kind,
            **{name: str(value) if isinstance(value, Path) else value for name, value in overrides.items()},
        )

    def run(self, names: str, **overrides: Any) -> ConfigWorkflow:
        """Run config files in this process as ``python -m monai.bundle run`` does."""
        workflow = self.workflow(names, **self.settings(names, **overrides))
        workflow.initialize()
        workflow.run()
        workflow.finalize()
        return workflow

    def words(self, run_id: str, names: str, **overrides: Any) -> list[str]:
        """Command line of ``python -m monai.bundle``."""
        settings = self.settings(names, **overrides)
        words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
        return ["run", run_id, "--config_file", str(self.files(names)), *words]

    def environment(self) -> dict[str, str]:
        # Warnings are errors in the tests' own process only.
        environment = {**os.environ, "PYTHONPATH": str(self.root), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        environment.pop("PYTHONWARNINGS", None)
        return environment

    def process(self, words: list[str], cwd: Path | None = None, expect: int = 0) -> subprocess.CompletedProcess[str]:
        """Run Python with these words in a process of its own."""
        done = subprocess.run(
            [sys.executable, *words],
            cwd=cwd or self.root,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == expect, done.stdout + done.stderr
        return done


def random_weights(configs: Path, tiny: dict[str, Any], folder: Path, scale: float = 0.1) -> Path:
    """Write a model.pt of a bundle's network."""
    parser = ConfigParser()
    parser.read_config(str(configs / "train.json"))
    parser.update(tiny)
    network = parser.get_parsed_content("network_def")
    generator = torch.Generator().manual_seed(0)
    state = {
        name: scale * torch.randn(value.shape, generator=generator)
        + (0.5 if "norm" in name and "weight" in name else 0)
        for name, value in network.state_dict().items()
    }
    folder.mkdir()
    torch.save(state, folder / "model.pt")
    return folder / "model.pt"


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The bundle, four images of 128 pixels, and random weights, whose masks are neither empty nor full."""
    folder = tmp_path_factory.mktemp("bundle")
    dataset = generate_sample_dataset(folder / "data", num_images=4, image_size=128)
    return Bundle(dataset=dataset, weights=random_weights(BUNDLE / "configs", TINY, folder / "weights"))


@pytest.fixture(scope="session")
def trained(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished run of two epochs."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    bundle.run("train", run_dir=folder)
    return folder


@pytest.fixture(scope="session")
def hippocampus(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The bundle with a tiny network, the middles of three generated volumes, and random weights."""
    folder = tmp_path_factory.mktemp("hippocampus")
    for path in generate_hippocampus_sample(folder / "whole", num_volumes=3).glob("*/*.nii.gz"):
        (folder / "data" / path.parent.name).mkdir(parents=True, exist_ok=True)
        nib.load(path).slicer[7:25, 9:29, 8:24].to_filename(folder / "data" / path.parent.name / path.name)
    bundle = ROOT / "bundles" / "hippocampus"
    return Bundle(
        dataset=folder / "data",
        weights=random_weights(bundle / "configs", TINY_PRIOR, folder / "weights", scale=0.3),
        folder=bundle,
        configs=bundle / "configs",
        tiny=TINY_PRIOR,
        sampling={"window_size": [16, 16, 16], "device": "cpu"},
        training={"crop_size": [16, 16, 16], **STAGES},
        scoring={},
    )


@pytest.fixture(scope="session")
def nuclei(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The bundle monuseg_ddps with a tiny network, the images of ``bundle``, and random weights."""
    folder = ROOT / "bundles" / "monuseg_ddps"
    weights = tmp_path_factory.mktemp("nuclei") / "weights"
    return Bundle(
        dataset=bundle.dataset,
        weights=random_weights(folder / "configs", TINY_PRIOR, weights, scale=0.3),
        folder=folder,
        configs=folder / "configs",
        tiny=TINY_PRIOR,
        sampling={"image_scale": 1.0, "window_size": 64, "device": "cpu"},
        training={"crop_size": 32, **STAGES},
    )


@pytest.fixture(scope="session", params=["hippocampus", "nuclei"])
def ddps(request: pytest.FixtureRequest) -> Bundle:
    """Each bundle with a mask prior."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def two_stages(ddps: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished run of ``ddps``, of two epochs in each stage."""
    folder = tmp_path_factory.mktemp("two_stages") / "run"
    ddps.run("train", run_dir=folder)
    return folder


@pytest.fixture(scope="session")
def copied(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy of the bundle with the tiny network and a short run as its defaults, at bundles/monuseg of a folder."""
    folder = tmp_path_factory.mktemp("copied")
    copy = folder / "bundles" / "monuseg"
    shutil.copytree(bundle.configs, copy / "configs")
    for name in ("train", "inference"):
        path = copy / "configs" / f"{name}.json"
        config = json.loads(path.read_text())
        config |= {"window_size": 128, "num_inference_steps": 1, "image_scale": 0.256, "device": "cpu"}
        config["network_def"] |= {name.removeprefix("network_def#"): value for name, value in TINY.items()}
        if name == "train":
            config |= {"crop_size": 32, "max_epochs": 2, "val_interval": 2}
        path.write_text(json.dumps(config, indent=4))
    return folder


@pytest.fixture(scope="session")
def assert_said() -> Callable[[BaseException, type[Exception], Path | str, str], None]:
    """Check that an error was caused by one of this kind that names something and says what is expected."""

    def check(raised: BaseException, kind: type[Exception], named: Path | str, expected: str) -> None:
        chain: list[BaseException] = []
        error: BaseException | None = raised
        while error is not None:
            chain.append(error)
            error = error.__cause__ or error.__context__
        found = [str(error) for error in chain if isinstance(error, kind)]
        assert found, f"no {kind.__name__} among {[type(error).__name__ for error in chain]}"
        assert str(named) in found[-1]
        assert expected in found[-1]

    return check


@pytest.fixture(autouse=True)
def _leave_no_trace() -> Iterator[None]:
    """A run sets MONAI's seed and puts the bundle on the path."""
    path = list(sys.path)
    yield
    sys.path[:] = path
    set_determinism(None)
