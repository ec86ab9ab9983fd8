# SPDX-License-Identifier: Apache-2.0
"""Two processes on the CPU, as torchrun starts them."""

from __future__ import annotations

import json
import socket
import subprocess
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser

from monai_segdiff import generate_sample_dataset

pytestmark = pytest.mark.end_to_end

PROCESSES = 2


def torchrun(bundle, run_id: str, names: str, **overrides: object) -> subprocess.CompletedProcess[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch = ["-m", "torch.distributed.run", "--nproc_per_node", str(PROCESSES)]
    launch += ["--master_addr", "127.0.0.1", "--master_port", str(port)]
    return bundle.process([*launch, "-m", "monai.bundle", *bundle.words(run_id, names, **overrides)])


def test_evaluation_agrees_with_one_process(bundle, tmp_path: Path) -> None:
    dataset = generate_sample_dataset(tmp_path / "data", num_images=3, image_size=96)  # ranks get two and one
    settings = {"dataset_dir": dataset, "ckpt": bundle.weights}
    bundle.run("train evaluate", output_dir=tmp_path / "one", **settings)
    done = torchrun(bundle, "evaluating", "train evaluate multi_gpu_train", output_dir=tmp_path / "two", **settings)
    one, two = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("one", "two"))
    assert [row["name"] for row in two["images"]] == [f"sample_{i:03d}.png" for i in range(3)]
    for left, right in zip(one["images"], two["images"], strict=True):
        assert left == pytest.approx(right, abs=1e-6)
    for kind in ("mean", "pooled"):
        assert one[kind].keys() == two[kind].keys()
        for score, result in one[kind].items():
            assert result["value"] == pytest.approx(two[kind][score]["value"], abs=1e-6)
    assert one["mean"]["dice"]["value"] > 0
    names = {path.name for path in (tmp_path / "two" / "overlays").iterdir()}
    assert names == {path.name for path in (tmp_path / "one" / "overlays").iterdir()}
    assert done.stdout.count("mean of images") == 1
    assert done.stdout.count("Next: ") == 1


def other_pictures(folder: Path) -> Path:
    """Three pictures under other names than those of the training."""
    generate_sample_dataset(folder, num_images=3, image_size=96)
    for path in [*folder.glob("*/*.png")]:
        path.rename(path.with_name(path.name.replace("sample", "other")))
    return folder


def test_training_and_resuming(bundle, tmp_path: Path) -> None:
    run, val = tmp_path / "run", other_pictures(tmp_path / "val")
    settings = {"run_dir": run, "val_dataset_dir": val, "images_per_batch": 1, "warmup_iterations": 0}
    names = "train multi_gpu_train"

    done = torchrun(bundle, "training", names, **settings)
    assert done.stdout.count("Next: ") == 1
    (proposed,) = (line for line in done.stdout.splitlines() if line.startswith("Next: "))
    assert "multi_gpu_train.json" not in proposed, "which needs torchrun"
    assert "training: 100%" in done.stderr
    checkpoint = torch.load(run / "checkpoint.pt", weights_only=True)
    # Four images, one a batch, on two processes: two iterations an epoch.
    assert checkpoint["trainer"] == {"epoch": 2, "iteration": 4}
    assert not [path for path in run.rglob("*") if path.name.startswith(".")]
    parser = ConfigParser()
    parser.read_config(bundle.files("inference"))
    parser.update(bundle.settings("inference"))
    network = parser.get_parsed_content("network_def")
    first = torch.load(run / "model.pt", weights_only=True)
    network.load_state_dict(first, strict=True)
    assert len(list((run / "overlays").glob("other_*_overlay.png"))) == 3

    torchrun(bundle, "training", names, **{**settings, "resume": True, "max_epochs": 3})
    resumed = torch.load(run / "checkpoint.pt", weights_only=True)
    assert resumed["trainer"] == {"epoch": 3, "iteration": 6}
    history = json.loads((run / "history.json").read_text())
    assert history["loss"]["iteration"] == [1, 2, 3, 4, 5, 6]
    assert history["validation"]["epoch"] == [1, 2, 3]
    assert any(not torch.equal(resumed["network"][name], value) for name, value in checkpoint["network"].items())
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("run")] == ["run"]


def test_both_stages_of_a_mask_prior(nuclei, tmp_path: Path) -> None:
    """The processes end with the same weights, and with the best base, which the first one alone writes."""
    run = tmp_path / "run"
    saved = "[item.state_dict() for item in (@base_network.module, @network.module, @ema.ema_model)]"
    finalize = [f"$torch.save({saved}, @run_dir + '/rank_' + str(@rank) + '.pt')", "$monai_segdiff.stop_processes()"]
    settings = {"run_dir": run, "val_dataset_dir": other_pictures(tmp_path / "val"), "images_per_batch": 1}
    settings["finalize"] = finalize
    done = torchrun(nuclei, "training", "train multi_gpu_train", **settings)
    assert "training the base: 100%" in done.stderr
    assert done.stdout.count("Next: ") == 1
    for stage in (run / "base", run):
        # Four images, one a batch, on two processes: two iterations an epoch.
        checkpoint = torch.load(stage / "checkpoint.pt", weights_only=True)
        assert checkpoint["trainer"] == {"epoch": 2, "iteration": 4}
    ranks = [torch.load(run / f"rank_{rank}.pt", weights_only=True) for rank in range(PROCESSES)]
    for one, two in zip(*ranks, strict=True):
        assert one.keys() == two.keys()
        assert all(torch.equal(value, two[name]) for name, value in one.items())
    best = torch.load(run / "base" / "model.pt", weights_only=True)
    assert all(torch.equal(ranks[1][1][f"base.network.{name}"], value) for name, value in best.items())
