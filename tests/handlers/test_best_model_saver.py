# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator
from monai.handlers import IgniteMetricHandler, from_engine
from monai.metrics import DiceMetric
from monai.transforms import AsDiscreted
from torch import nn

from monai_segdiff.exceptions import CheckpointError
from monai_segdiff.handlers import BestModelSaver, load_weights


class Scaled(nn.Module):
    """Finds the share of the object that its weight says: pred = image <= weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.register_buffer("count", torch.tensor(7))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x <= self.weight).float()


def evaluator(network: nn.Module, saver: BestModelSaver) -> SupervisedEvaluator:
    image = torch.linspace(0.1, 1, 10).reshape(1, 1, 10)
    return SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Dataset([{"image": image, "label": torch.ones(1, 1, 10)}]), batch_size=1),
        network=network,
        postprocessing=AsDiscreted(keys="pred", threshold=0.5),
        key_val_metric={
            "dice": IgniteMetricHandler(DiceMetric(ignore_empty=False), output_transform=from_engine(["pred", "label"]))
        },
        val_handlers=[saver],
    )


def validate(engine: SupervisedEvaluator, network: Scaled, weight: float, epoch: int) -> None:
    with torch.no_grad():
        network.weight.fill_(weight)
    engine.run(global_epoch=epoch)


def test_keeps_the_best_weights(tmp_path: Path) -> None:
    network = Scaled()
    path = tmp_path / "new" / "model.pt"
    engine = evaluator(network, BestModelSaver(network, path))
    kept = []
    for epoch, weight in enumerate([0.01, 0.51, 0.31, 0.52, 0.81, 0.71], start=1):
        validate(engine, network, weight, epoch)
        kept.append(round(torch.load(path, weights_only=True)["weight"].item(), 2))
    # A Dice of 0 is better than nothing, an equal one (0.51 and 0.52 find the same) does not replace the older.
    assert kept == [0.01, 0.51, 0.51, 0.51, 0.81, 0.81]
    assert [entry.name for entry in path.parent.iterdir()] == ["model.pt"]


def test_a_better_score_before_counts(tmp_path: Path) -> None:
    network = Scaled()
    engine = evaluator(network, BestModelSaver(network, tmp_path / "model.pt"))
    engine.state.best_metric, engine.state.best_metric_epoch = 0.9, 4  # as TrainingCheckpoint restores them
    validate(engine, network, 0.51, 5)
    assert not (tmp_path / "model.pt").exists()
    validate(engine, network, 1.01, 6)
    assert torch.load(tmp_path / "model.pt", weights_only=True)["weight"].item() == pytest.approx(1.01)


def test_wrapped_network_is_saved_plain(tmp_path: Path) -> None:
    network = Scaled()
    saver = BestModelSaver(nn.DataParallel(network), tmp_path / "model.pt")
    validate(evaluator(network, saver), network, 0.5, 1)
    state = torch.load(tmp_path / "model.pt", weights_only=True)
    assert {key: value.dtype for key, value in state.items()} == {"weight": torch.float32, "count": torch.int64}
    network.load_state_dict(state)
    assert network.weight.item() == 0.5
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.pt"]


def test_settings_are_written_beside(tmp_path: Path) -> None:
    network = Scaled()
    settings = {"prediction_type": "sample", "image_mean": [1.5, 2.0]}
    engine = evaluator(network, BestModelSaver(network, tmp_path / "model.pt", settings=settings))
    validate(engine, network, 0.5, 1)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["model.json", "model.pt"]
    assert json.loads((tmp_path / "model.json").read_text()) == settings
    load_weights(network, tmp_path / "model.pt", settings=settings)
    with pytest.raises(CheckpointError, match="trained with prediction_type='sample', expected 'epsilon'"):
        load_weights(network, tmp_path / "model.pt", settings={**settings, "prediction_type": "epsilon"})
