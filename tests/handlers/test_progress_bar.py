# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from ignite.engine import Events
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import MeanDice, ValidationHandler, from_engine
from monai.transforms import AsDiscreted
from torch import nn

from monai_segdiff.handlers import ProgressBar


def loader(count: int = 6) -> DataLoader:
    return DataLoader(Dataset([{"image": torch.ones(1, 4, 4), "label": torch.ones(1, 4, 4)}] * count), batch_size=2)


def validator(network: nn.Module, bar: ProgressBar | None = None) -> SupervisedEvaluator:
    return SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=loader(),
        network=network,
        postprocessing=AsDiscreted(keys="pred", threshold=0.5),
        key_val_metric={"dice": MeanDice(output_transform=from_engine(["pred", "label"]))},
        val_handlers=[bar] if bar else None,
    )


def trainer(
    bar: ProgressBar, evaluator: SupervisedEvaluator | None = None, loss: nn.Module | None = None
) -> SupervisedTrainer:
    network = nn.Conv2d(1, 1, 1)
    nn.init.constant_(network.weight, 0.25)
    nn.init.zeros_(network.bias)
    return SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=3,
        train_data_loader=loader(),
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=0.0),
        loss_function=loss or nn.MSELoss(),
        train_handlers=[*([ValidationHandler(interval=2, validator=evaluator)] if evaluator else []), bar],
    )


def test_trainer(capsys: pytest.CaptureFixture[str]) -> None:
    bar = ProgressBar("training", show_loss=True, evaluator=validator(nn.Identity()))
    trainer(bar, bar.evaluator).run()
    captured = capsys.readouterr()
    assert captured.out == ""
    last = captured.err.split("\r")[-1]
    assert "training: 100%" in last
    assert "9/9" in last
    assert "epoch=3/3, loss=0.5625, Dice=1.0000, best=1.0000" in last
    assert last.endswith("\n")
    assert bar.bar is None


def test_score_of_the_last_epoch_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    bar = ProgressBar("training", show_loss=True, evaluator=validator(nn.Identity()))
    engine = trainer(bar, bar.evaluator)
    engine.state.max_epochs = 2
    engine.run()
    shown = capsys.readouterr().err.split("\r")
    assert [("Dice" in text) for text in shown].index(True) == len(shown) - 1
    assert "6/6" in shown[-1]
    assert "epoch=2/2, loss=0.5625, Dice=1.0000, best=1.0000" in shown[-1]


def test_no_score_is_shown_before_the_first_validation(capsys: pytest.CaptureFixture[str]) -> None:
    bar = ProgressBar("training", show_loss=True, evaluator=validator(nn.Identity()))
    trainer(bar).run()
    last = capsys.readouterr().err.split("\r")[-1]
    assert "epoch=3/3, loss=0.5625]" in last
    assert "Dice" not in last


def test_resumed_run_counts_on(capsys: pytest.CaptureFixture[str]) -> None:
    bar = ProgressBar("training", show_loss=True)
    engine = trainer(bar)

    @engine.on(Events.STARTED)
    def resume() -> None:
        engine.state.epoch, engine.state.iteration = 2, 6

    engine.run()
    shown = capsys.readouterr().err.split("\r")
    assert "6/9" in shown[1]
    assert "9/9" in shown[-1]


def test_evaluator(capsys: pytest.CaptureFixture[str]) -> None:
    bar = ProgressBar("segmenting", unit="image")
    engine = validator(nn.Identity(), bar)
    for epoch in (1, 2):
        engine.run(global_epoch=epoch)
        last = capsys.readouterr().err.split("\r")[-1]
        assert "segmenting: 100%" in last
        assert "3/3" in last
        assert "image" in last
        assert "loss" not in last


class FailingLoss(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        if self.calls == 3:
            raise ArithmeticError("the third loss")
        return (prediction - target).abs().mean()


def test_error_closes_the_bar_and_arrives(capsys: pytest.CaptureFixture[str]) -> None:
    bar = ProgressBar("training", show_loss=True)
    engine = trainer(bar, loss=FailingLoss())
    with pytest.raises(ArithmeticError, match="the third loss"):
        engine.run()
    assert bar.bar is None
    last = capsys.readouterr().err.split("\r")[-1]
    assert "2/9" in last
    assert last.endswith("\n")
