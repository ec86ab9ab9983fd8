# SPDX-License-Identifier: Apache-2.0
"""Base segmentor and mask prior in one command: what holds for both bundles that train so."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser
from torch import nn

from monai_segdiff import CategoricalScheduler
from monai_segdiff.exceptions import CheckpointError

BASE = "base.network."


def read(bundle, *names: str) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config(bundle.files(" ".join(names)))
    parser.update(bundle.settings(" ".join(names)))
    return parser


def weights(path: Path, prefix: str = "") -> dict[str, torch.Tensor]:
    """Those entries of a state dict whose names begin with ``prefix``, without it."""
    state = torch.load(path, weights_only=True)
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def epochs(folder: Path) -> list[int]:
    return json.loads((folder / "history.json").read_text())["validation"]["epoch"]


# configs


@pytest.mark.parametrize(
    ("names", "kind"),
    [("train", "train"), ("train evaluate", "eval"), ("train paper", "train"), ("inference", "infer")],
)
def test_properties(ddps, tmp_path: Path, names: str, kind: str) -> None:
    paths = {"run_dir": tmp_path / "run"} if "train" in names else {"output_dir": tmp_path / "out"}
    workflow = ddps.workflow(names, kind, **ddps.settings(names, ckpt=ddps.weights, **paths))
    workflow.initialize()
    assert workflow.check_properties() == []
    for name in workflow.properties:
        if name != "_meta_":
            getattr(workflow, name)


def test_paper_config_is_the_published_method(ddps) -> None:
    parser = ConfigParser()
    parser.read_config(ddps.files("train paper"))
    parser.update({"device": "cpu", "single_step_iterations": 80_000})
    network, inferer = parser.get_parsed_content("network_def"), parser.get_parsed_content("inferer")
    assert (network.condition, network.condition_channels, network.base_channels) == (
        "features",
        256,
        network.base.feature_channels,
    )
    assert network.embedding.weight.shape == (network.num_classes, 16)
    assert not network.embedding.weight.requires_grad
    assert network.classifier[0].p == 0.1
    assert {norm.num_groups for norm in network.unet.modules() if isinstance(norm, nn.GroupNorm)} == {8}
    assert type(inferer.scheduler) is CategoricalScheduler
    assert (inferer.scheduler.sampler, inferer.scheduler.kernel, inferer.start) == ("re_noise", "uniform", "noise")
    assert inferer.scheduler.timesteps.tolist() == [19, 10, 0]
    assert (parser["noise_on"], parser["loss"], parser["ema_warmup"], parser["ema_interval"]) == (
        "first_prediction",
        "ce",
        False,
        25,
    )
    optimizer = parser.get_parsed_content("optimizer")
    assert {name: optimizer.defaults[name] for name in ("lr", "betas", "weight_decay")} == {
        "lr": 1.5e-4,
        "betas": (0.9, 0.96),
        "weight_decay": 0.045,
    }
    # A base trained for a few thousand iterations must forget its first weights.
    base = parser.get_parsed_content("base#optimizer").defaults["weight_decay"], parser.get_parsed_content("base_ema")
    assert (base[0], base[1].momentum, parser["base_ema_warmup"]) == (1e-4, 0.005, True)
    (averages,) = [one for one in parser["base"]["handlers"] if one["_target_"].endswith("WeightAverage")]
    assert averages == {
        "_target_": "monai_segdiff.WeightAverage",
        "ema": "@base_ema",
        "warmup": "@base_ema_warmup",
    }
    (rate,) = parser.get_parsed_content("lr_schedule").lr_lambdas
    # Warm-up and first halvings of each stage, and the floor of 1e-6.
    for iteration, expected in (
        *((0, 1e-6), (500, 0.500001), (1000, 1.0), (9_999, 1.0), (10_000, 0.5), (79_999, 0.5**7)),
        *((80_000, 1e-6), (81_000, 1.0), (99_999, 1.0), (100_000, 0.5), (239_999, 0.5**7), (400_000, 1 / 150)),
    ):
        assert rate(iteration) == pytest.approx(expected, rel=1e-12), iteration
    per_epoch = {"hippocampus": 167 // 4, "monuseg_ddps": 30 // 8}[ddps.folder.name]
    assert (parser["single_step_epochs"] - 1) * per_epoch < 80_000 <= parser["single_step_epochs"] * per_epoch
    assert (parser["max_epochs"] - 1) * per_epoch < 240_000 <= parser["max_epochs"] * per_epoch


def test_paper_config_trains(ddps, tmp_path: Path) -> None:
    small = {"base_epochs": 1, "max_epochs": 1, "checkpoint_interval": 1}
    run = ddps.run("train paper", run_dir=tmp_path, **small)
    trainer = run.parser.get_parsed_content("train#trainer")
    assert trainer.state.ema_momentum == 0.01
    history = json.loads((tmp_path / "history.json").read_text())
    assert len(history["loss"]["value"]) == 1
    (group,) = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["optimizer"]["param_groups"]
    assert group["lr"] == pytest.approx(1.5e-4 * 1e-6, rel=1e-6), "the second stage has a warm-up of its own"


# a run


def test_files_of_a_run(ddps, two_stages: Path) -> None:
    stage = {"checkpoint.pt", "model.pt", "model.json", "history.json", "curves.png", "tensorboard"}
    pictures = {"overlays"} if ddps.folder.name == "monuseg_ddps" else set()
    assert {path.name for path in two_stages.iterdir()} == stage | pictures | {"base", "split.json"}
    assert {path.name for path in (two_stages / "base").iterdir()} == stage
    for folder in (two_stages, two_stages / "base"):
        assert epochs(folder) == [1, 2]
        history = json.loads((folder / "history.json").read_text())
        assert history["loss"]["iteration"] == [1, 2]
        saved = torch.load(folder / "checkpoint.pt", weights_only=True)
        assert saved["trainer"] == {"epoch": 2, "iteration": 2}
        best = saved["evaluator"]["best_metric_epoch"]
        assert history["validation"]["value"][best - 1] == pytest.approx(max(history["validation"]["value"]))
        if best == 2:
            assert equal(weights(folder / "model.pt"), saved["ema"])
    settings = json.loads((two_stages / "model.json").read_text())
    of_base = json.loads((two_stages / "base" / "model.json").read_text())
    assert of_base.items() < settings.items()


def test_prior_keeps_the_best_base(ddps, two_stages: Path) -> None:
    best = weights(two_stages / "base" / "model.pt")
    assert equal(weights(two_stages / "model.pt", BASE), best)
    saved = torch.load(two_stages / "checkpoint.pt", weights_only=True)
    for name in ("network", "ema"):
        assert all(torch.equal(saved[name][BASE + key], value) for key, value in best.items())
    assert not all(torch.equal(saved["network"][key], value) for key, value in saved["ema"].items())


@pytest.mark.parametrize("name", ["train", "inference"])
def test_model_is_loaded_strictly(ddps, two_stages: Path, name: str) -> None:
    network = read(ddps, name).get_parsed_content("network_def")
    network.load_state_dict(torch.load(two_stages / "model.pt", weights_only=True), strict=True)


def test_evaluation_leaves_the_training_run_alone(ddps, two_stages: Path) -> None:
    before = contents(two_stages)
    ddps.run("train evaluate", run_dir=two_stages)
    after = contents(two_stages)
    assert {Path(name).parts[0] for name in after.keys() - before.keys()} == {"evaluation"}
    assert {name: after[name] for name in before} == before
    split = json.loads((two_stages / "split.json").read_text())
    report = json.loads((two_stages / "evaluation" / "metrics.json").read_text())
    assert {row["name"] for row in report["images"]} == {Path(entry["image"]).name for entry in split["validation"]}
    shutil.rmtree(two_stages / "evaluation")


# other starts


def test_given_base(ddps, two_stages: Path, tmp_path: Path) -> None:
    given = two_stages / "base" / "model.pt"
    ddps.run("train", run_dir=tmp_path / "run", base_weights=given, max_epochs=1)
    assert not (tmp_path / "run" / "base").exists()
    assert equal(weights(tmp_path / "run" / "model.pt", BASE), weights(given))
    assert epochs(tmp_path / "run") == [1]


def test_given_weights(ddps, two_stages: Path, tmp_path: Path) -> None:
    given = two_stages / "model.pt"
    ddps.run("train", run_dir=tmp_path / "run", initial_weights=given, max_epochs=1, learning_rate=0.0)
    assert not (tmp_path / "run" / "base").exists()
    saved = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    for name, value in weights(given).items():
        torch.testing.assert_close(saved["network"][name], value, rtol=0, atol=1e-5)
    assert equal(weights(tmp_path / "run" / "model.pt", BASE), weights(given, BASE))


def test_other_diffusion(nuclei, assert_said, tmp_path: Path) -> None:
    """Options that the weights depend on reach every part, and are asked for again."""
    options = {"kernel": "absorbing", "schedule": "ddps_cosine", "num_train_timesteps": 10}
    training = {"base_epochs": 1, "max_epochs": 1, "noise_on": "base_prediction", "single_step_epochs": 0}
    nuclei.run("train", run_dir=tmp_path / "run", **options, **training)
    assert torch.load(tmp_path / "run" / "model.pt", weights_only=True)["embedding.weight"].shape[0] == 3
    inference = {"dataset_dir": nuclei.dataset / "images" / "sample_000.png", "ckpt": tmp_path / "run" / "model.pt"}
    inference["output_dir"] = tmp_path / "out"
    nuclei.run("inference", **inference, **options, start="base_prediction", sampler="posterior", base_weight=0.5)
    assert (tmp_path / "out" / "sample_000_mask.png").is_file()
    with pytest.raises(RuntimeError) as caught:
        nuclei.run("inference", **inference, **options | {"schedule": "ddps_linear"})
    assert_said(
        caught.value,
        CheckpointError,
        inference["ckpt"],
        "was trained with schedule='ddps_cosine', expected 'ddps_linear'",
    )


def other_network(two_stages: Path, path: Path) -> dict[str, Any]:
    state = torch.load(two_stages / "base" / "model.pt", weights_only=True)
    torch.save({**state, "more": torch.zeros(1)}, path)
    return {}


def whole_network(two_stages: Path, path: Path) -> dict[str, Any]:
    shutil.copy(two_stages / "model.pt", path)
    return {}


def other_width(two_stages: Path, path: Path) -> dict[str, Any]:
    shutil.copy(two_stages / "base" / "model.pt", path)
    return {"base_network_def#channels": [8, 8]}


def other_data(two_stages: Path, path: Path) -> dict[str, Any]:
    shutil.copy(two_stages / "base" / "model.pt", path)
    settings = json.loads((two_stages / "base" / "model.json").read_text())
    name = next(iter(settings))
    path.with_suffix(".json").write_text(json.dumps({**settings, name: [2.0, 2.0, 2.0]}))
    return {}


def damaged(two_stages: Path, path: Path) -> dict[str, Any]:
    path.write_bytes((two_stages / "base" / "model.pt").read_bytes()[:5000])
    return {}


def nothing(two_stages: Path, path: Path) -> dict[str, Any]:
    return {}


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (other_network, "was written for another network than UNet as configured"),
        (whole_network, "was written for another network than UNet as configured"),
        (other_width, "was written for another network than UNet as configured"),
        (other_data, "=[2.0, 2.0, 2.0], expected "),
        (damaged, "is damaged or not a PyTorch checkpoint"),
        (nothing, "does not exist"),
    ],
)
def test_bad_base(ddps, assert_said, two_stages: Path, tmp_path: Path, make: Any, expected: str) -> None:
    path, run = tmp_path / "other_base.pt", tmp_path / "run"
    changes = make(two_stages, path)
    with pytest.raises(RuntimeError) as caught:
        ddps.run("train", run_dir=run, base_weights=path, **changes)
    assert_said(caught.value, CheckpointError, path, expected)
    assert not {"model.pt", "checkpoint.pt", "base"} & {item.name for item in run.iterdir()}


# resuming


@pytest.fixture
def run(two_stages: Path, tmp_path: Path) -> Path:
    """A copy of the finished run."""
    return Path(shutil.copytree(two_stages, tmp_path / "run"))


def remove_the_prior(run: Path) -> None:
    """Leave what there is between the two stages."""
    for path in run.iterdir():
        if path.name not in ("base", "split.json"):
            path.unlink() if path.is_file() else shutil.rmtree(path)


def test_resumed_between_the_stages(ddps, run: Path) -> None:
    remove_the_prior(run)
    split, base = (run / "split.json").read_bytes(), contents(run / "base")
    ddps.run("train", run_dir=run, resume=True)
    assert contents(run / "base") == base
    assert (run / "split.json").read_bytes() == split
    assert epochs(run) == [1, 2]
    assert equal(weights(run / "model.pt", BASE), weights(run / "base" / "model.pt"))


def test_resumed_in_the_base(ddps, run: Path) -> None:
    remove_the_prior(run)
    checkpoint = torch.load(run / "base" / "checkpoint.pt", weights_only=True)
    checkpoint["evaluator"] = {"best_metric": 2.0, "best_metric_epoch": 1}  # better than any Dice
    torch.save(checkpoint, run / "base" / "checkpoint.pt")
    best = (run / "base" / "model.pt").read_bytes()
    ddps.run("train", run_dir=run, resume=True, base_epochs=4, max_epochs=1)
    assert epochs(run / "base") == [1, 2, 3, 4]
    saved = torch.load(run / "base" / "checkpoint.pt", weights_only=True)
    assert saved["trainer"]["epoch"] == 4
    assert not equal(saved["network"], checkpoint["network"])
    assert (run / "base" / "model.pt").read_bytes() == best, "the best base is not lost"
    assert equal(weights(run / "model.pt", BASE), weights(run / "base" / "model.pt"))
    assert epochs(run) == [1]


def test_resumed_in_the_prior(ddps, run: Path) -> None:
    base = contents(run / "base")
    checkpoint = torch.load(run / "checkpoint.pt", weights_only=True)
    # The base that the prior was trained with is in its own checkpoint.
    (run / "base" / "model.pt").unlink()
    workflow = ddps.run("train", run_dir=run, resume=True, max_epochs=3)
    assert contents(run / "base") == {name: value for name, value in base.items() if name != "model.pt"}
    assert epochs(run) == [1, 2, 3]
    saved = torch.load(run / "checkpoint.pt", weights_only=True)
    assert saved["trainer"] == {"epoch": 3, "iteration": 3}
    for name in ("network", "ema"):
        assert all(torch.equal(saved[name][key], checkpoint[name][key]) for key in saved[name] if key.startswith(BASE))
    assert not equal(saved["network"], checkpoint["network"])
    schedule = workflow.parser.get_parsed_content("lr_schedule")
    assert (schedule.t_total, schedule.last_epoch) == (3, 3)
    assert not workflow.parser.get_parsed_content("train#prepare_batch").single_step


def test_finished_run_is_not_resumed(ddps, assert_said, run: Path) -> None:
    before = contents(run)
    with pytest.raises(RuntimeError) as caught:
        ddps.run("train", run_dir=run, resume=True)
    assert_said(caught.value, CheckpointError, run / "checkpoint.pt", "has already done 2 epochs")
    after = contents(run)
    assert {name: after[name] for name in before} == before


def test_new_run_moves_an_unfinished_one_aside(ddps, run: Path) -> None:
    remove_the_prior(run)
    (run / "split.json").unlink()
    old = contents(run)
    ddps.run("train", run_dir=run, base_epochs=1, max_epochs=1)
    (aside,) = (path for path in run.parent.iterdir() if path != run)
    assert aside.name.startswith("run-")
    assert contents(aside) == old
    assert (epochs(run / "base"), epochs(run)) == ([1], [1])


@pytest.mark.end_to_end
def test_killed_in_either_stage(hippocampus, tmp_path: Path) -> None:
    """Kill a run in its base, resume it, kill it in its prior, resume it to the end."""
    run = tmp_path / "run"

    def kill_in(stage: Path, **settings: Any) -> int:
        """Start or resume, kill after the third save of a stage, and return the epoch of the last one."""
        words = hippocampus.words("training", "train", run_dir=run, **settings)
        with (
            open(tmp_path / "log", "w") as log,
            subprocess.Popen(
                [sys.executable, "-m", "monai.bundle", *words],
                cwd=hippocampus.root,
                env=hippocampus.environment(),
                stdout=log,
                stderr=subprocess.STDOUT,
            ) as process,
        ):
            try:
                seen: set[int] = set()
                while len(seen) < 3:
                    assert process.poll() is None, (tmp_path / "log").read_text()
                    if (stage / "checkpoint.pt").exists():
                        seen.add((stage / "checkpoint.pt").stat().st_mtime_ns)
                    time.sleep(0.002)
            finally:
                process.kill()
        assert process.returncode == -signal.SIGKILL
        return torch.load(stage / "checkpoint.pt", weights_only=True)["trainer"]["epoch"]

    in_base = kill_in(run / "base", base_epochs=1000, base_val_interval=1)
    assert not (run / "checkpoint.pt").exists()
    in_prior = kill_in(run, base_epochs=in_base + 1, max_epochs=1000, resume="true")
    assert epochs(run / "base") == list(range(1, in_base + 2))
    base = contents(run / "base")

    words = hippocampus.words("training", "train", run_dir=run, max_epochs=in_prior + 1, resume="true")
    done = hippocampus.process(["-m", "monai.bundle", *words])
    assert f"Resumed {run / 'checkpoint.pt'} after epoch {in_prior}." in done.stderr
    assert "training the base" not in done.stderr
    assert contents(run / "base") == base
    assert epochs(run) == list(range(1, in_prior + 2))
    assert equal(weights(run / "model.pt", BASE), weights(run / "base" / "model.pt"))
    assert {path.name for path in tmp_path.iterdir()} == {"run", "log"}, "nothing was moved aside"
