# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Events
from ignite.handlers import EMAHandler
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import LrScheduleHandler, MeanDice, ValidationHandler, from_engine
from monai.optimizers import WarmupCosineSchedule
from monai.transforms import AsDiscreted, Compose, RandGaussianNoised
from torch import nn

from monai_segdiff.exceptions import CheckpointError
from monai_segdiff.handlers import BestModelSaver, TrainingCheckpoint, TrainingCurves, checkpoint_epoch

ITERATIONS = 3
LEARNING_RATE = 0.01


class Run:
    """A small run with everything that the bundle's checkpoint holds; its data and steps are not random."""

    def __init__(
        self,
        folder: Path,
        max_epochs: int,
        schedule_epochs: int | None = None,
        resume: bool = False,
        interval: int = 1,
        noise: float = 0.0,
        width: int = 3,
        settings: dict[str, Any] | None = None,
    ) -> None:
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.Conv2d(width, 1, 1))
        self.ema = EMAHandler(self.network, momentum=0.2)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=LEARNING_RATE)
        total = (schedule_epochs or max_epochs) * ITERATIONS
        self.schedule = WarmupCosineSchedule(self.optimizer, warmup_steps=2, t_total=total)
        generator = torch.Generator().manual_seed(1)
        images = torch.rand(2 * ITERATIONS, 1, 6, 6, generator=generator)
        data = [{"image": image, "label": (image > 0.5).float()} for image in images]
        # Adding noise of standard deviation 0 changes nothing.
        transform = Compose([RandGaussianNoised("image", prob=1.0, std=noise)]) if noise else None
        if transform is not None:
            transform.set_random_state(seed=0)
        self.evaluator = SupervisedEvaluator(
            device=torch.device("cpu"),
            val_data_loader=DataLoader(Dataset(data), batch_size=2),
            network=self.ema.ema_model,
            postprocessing=AsDiscreted(keys="pred", threshold=0.5),
            key_val_metric={"dice": MeanDice(output_transform=from_engine(["pred", "label"]))},
            val_handlers=[BestModelSaver(self.ema.ema_model, folder / "model.pt")],
        )
        self.curves = TrainingCurves(folder, self.evaluator, "dice", draw_interval=1000, resume=resume)
        self.saved = {
            "network": self.network,
            "ema": self.ema.ema_model,
            "optimizer": self.optimizer,
            "lr_schedule": self.schedule,
        }
        self.checkpoint = TrainingCheckpoint(
            folder / "checkpoint.pt", self.saved, self.evaluator, interval=interval, resume=resume, settings=settings
        )
        self.trainer = SupervisedTrainer(
            device=torch.device("cpu"),
            max_epochs=max_epochs,
            train_data_loader=DataLoader(Dataset(data, transform), batch_size=2),
            network=self.network,
            optimizer=self.optimizer,
            loss_function=nn.MSELoss(),
            train_handlers=[
                LrScheduleHandler(self.schedule, print_lr=False, epoch_level=False),
                self.ema,
                ValidationHandler(interval=1, validator=self.evaluator),
                self.checkpoint,
                self.curves,
            ],
            decollate=False,
        )
        self.rates: dict[int, float] = {}
        self.images: list[torch.Tensor] = []
        self.trainer.add_event_handler(Events.ITERATION_COMPLETED, self._look)

    def _look(self, engine: Any) -> None:
        self.rates[engine.state.iteration] = self.optimizer.param_groups[0]["lr"]
        self.images.append(engine.state.batch["image"].clone())

    def start(self) -> Run:
        self.trainer.run()
        return self

    def state(self) -> dict[str, Any]:
        return copy.deepcopy({name: item.state_dict() for name, item in self.saved.items()})


def assert_equal(one: Any, other: Any) -> None:
    """Equality of nested containers that hold tensors."""
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_equal(one[key], other[key])
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for left, right in zip(one, other, strict=True):
            assert_equal(left, right)
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    else:
        assert one == other


def test_a_resumed_run_equals_one_that_was_not_interrupted(tmp_path: Path) -> None:
    whole = Run(tmp_path / "whole", 4).start()
    Run(tmp_path / "parts", 2, schedule_epochs=4).start()
    rest = Run(tmp_path / "parts", 4, resume=True).start()
    assert_equal(rest.state(), whole.state())
    assert rest.trainer.state.epoch == 4
    assert rest.trainer.state.iteration == 4 * ITERATIONS
    assert list(rest.rates) == list(range(2 * ITERATIONS + 1, 4 * ITERATIONS + 1))
    assert rest.evaluator.state.best_metric == whole.evaluator.state.best_metric
    assert rest.evaluator.state.best_metric_epoch == whole.evaluator.state.best_metric_epoch
    for name in ("checkpoint.pt", "model.pt"):
        one, other = (torch.load(tmp_path / run / name, weights_only=True) for run in ("whole", "parts"))
        assert_equal(one, other)
    one, other = (json.loads((tmp_path / run / "history.json").read_text()) for run in ("whole", "parts"))
    assert one == other
    assert one["loss"]["iteration"] == list(range(1, 4 * ITERATIONS + 1))


def test_history_ahead_of_the_checkpoint_is_cut(tmp_path: Path) -> None:
    """As after a kill between two checkpoints."""
    whole = Run(tmp_path / "whole", 4).start()
    Run(tmp_path, 3, schedule_epochs=4, interval=2).start()
    Run(tmp_path / "two", 2, schedule_epochs=4).start()
    (tmp_path / "two" / "checkpoint.pt").replace(tmp_path / "checkpoint.pt")
    rest = Run(tmp_path, 4, resume=True).start()
    assert_equal(rest.state(), whole.state())
    assert json.loads((tmp_path / "history.json").read_text()) == json.loads(
        (tmp_path / "whole" / "history.json").read_text()
    )


def test_settings_must_be_the_same(tmp_path: Path) -> None:
    Run(tmp_path, 2, settings={"prediction_type": "sample", "scale": 0.5}).start()
    with pytest.raises(CheckpointError, match="trained with prediction_type='sample', expected 'epsilon'"):
        Run(tmp_path, 3, resume=True, settings={"prediction_type": "epsilon", "scale": 0.5}).start()
    Run(tmp_path, 3, resume=True, settings={"prediction_type": "sample", "scale": 0.5}).start()


def test_content_of_the_file(tmp_path: Path) -> None:
    run = Run(tmp_path, 2).start()
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert set(saved) == {"network", "ema", "optimizer", "lr_schedule", "settings", "trainer", "evaluator"}
    assert saved["trainer"] == {"epoch": 2, "iteration": 2 * ITERATIONS}
    best = run.evaluator.state
    assert saved["evaluator"] == {"best_metric": best.best_metric, "best_metric_epoch": best.best_metric_epoch}
    assert_equal(saved["network"], run.network.state_dict())
    assert not torch.equal(saved["network"]["0.weight"], saved["ema"]["0.weight"])
    assert saved["settings"] == {}


@pytest.mark.parametrize(("interval", "expected"), [(1, [1, 2, 3, 4, 5]), (2, [2, 4, 5]), (9, [5])])
def test_saved_every_so_many_epochs_and_at_the_end(tmp_path: Path, interval: int, expected: list[int]) -> None:
    run = Run(tmp_path, 5, interval=interval)
    epochs = []

    def look(engine: Any) -> None:
        path = tmp_path / "checkpoint.pt"
        if path.exists():
            epochs.append(torch.load(path, weights_only=True)["trainer"]["epoch"])

    run.trainer.add_event_handler(Events.EPOCH_COMPLETED | Events.COMPLETED, look)
    run.start()
    assert sorted(set(epochs)) == expected


def test_a_longer_run_follows_its_own_schedule(tmp_path: Path) -> None:
    """The learning rate of the saved schedule has come down to 0; the new one is not that far."""
    short = Run(tmp_path, 2).start()
    assert short.rates[2 * ITERATIONS] == pytest.approx(0.0, abs=1e-12)
    whole = Run(tmp_path / "whole", 6).start()
    resumed = Run(tmp_path, 6, resume=True).start()
    assert resumed.schedule.t_total == 6 * ITERATIONS
    assert resumed.rates == {i: rate for i, rate in whole.rates.items() if i > 2 * ITERATIONS}
    assert max(resumed.rates.values()) > 0.5 * LEARNING_RATE


def test_the_best_score_is_kept(tmp_path: Path) -> None:
    Run(tmp_path, 2).start()
    checkpoint = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    checkpoint["evaluator"] = {"best_metric": 2.0, "best_metric_epoch": 1}  # better than any Dice
    torch.save(checkpoint, tmp_path / "checkpoint.pt")
    old = (tmp_path / "model.pt").read_bytes()
    resumed = Run(tmp_path, 4, resume=True).start()
    assert (tmp_path / "model.pt").read_bytes() == old
    assert resumed.evaluator.state.best_metric == 2.0


def test_a_resumed_run_draws_new_random_numbers(tmp_path: Path) -> None:
    first = Run(tmp_path, 1, noise=0.1).start()
    second = Run(tmp_path, 2, noise=0.1, resume=True).start()
    assert len(first.images) == len(second.images) == ITERATIONS
    assert not any(torch.equal(one, other) for one, other in zip(first.images, second.images, strict=True))
    again = Run(tmp_path / "other", 1, noise=0.1).start()
    assert all(torch.equal(one, other) for one, other in zip(first.images, again.images, strict=True))


def test_wrapped_network_is_saved_plain(tmp_path: Path) -> None:
    network = nn.Linear(2, 1)
    checkpoint = TrainingCheckpoint(tmp_path / "checkpoint.pt", {"network": nn.DataParallel(network)})
    run = Run(tmp_path, 1)
    checkpoint.save(run.trainer)
    assert_equal(dict(torch.load(tmp_path / "checkpoint.pt", weights_only=True)["network"]), dict(network.state_dict()))


def other_network(path: Path) -> None:
    Run(path.parent, 2, width=5).start()


def missing(path: Path) -> None:
    pass


def truncated(path: Path) -> None:
    Run(path.parent, 2).start()
    path.write_bytes(path.read_bytes()[:-500])


def model_file(path: Path) -> None:
    Run(path.parent, 2).start()
    path.write_bytes((path.parent / "model.pt").read_bytes())


def finished(path: Path) -> None:
    Run(path.parent, 4).start()


def not_a_dictionary(path: Path) -> None:
    torch.save([1, 2], path)


def a_tensor(path: Path) -> None:
    torch.save(torch.zeros(2), path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (missing, "does not exist"),
        (truncated, "is damaged"),
        (model_file, "is not one of a whole training run"),
        (other_network, "was written for another network"),
        (finished, "already done 4 epochs; give a larger max_epochs than 4"),
        (not_a_dictionary, "is not one of a whole training run"),
        (a_tensor, "is not one of a whole training run"),
    ],
)
def test_refused(tmp_path: Path, make: Any, message: str) -> None:
    path = tmp_path / "checkpoint.pt"
    make(path)
    content = path.read_bytes() if path.exists() else None
    run = Run(tmp_path, 4, resume=True)
    before = run.state()
    with pytest.raises(CheckpointError, match=message) as caught:
        run.start()
    assert str(path) in str(caught.value)
    assert_equal(run.state(), before)
    assert (path.read_bytes() if path.exists() else None) == content


def test_epoch_of_a_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    assert checkpoint_epoch(path) == 0
    Run(tmp_path, 2).start()
    assert checkpoint_epoch(path) == 2
    Run(tmp_path, 3, resume=True).start()
    assert checkpoint_epoch(str(path)) == 3


def no_epoch(path: Path) -> None:
    torch.save({"trainer": {"iteration": 3}}, path)


def a_number(path: Path) -> None:
    torch.save({"trainer": 3}, path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (truncated, "is damaged"),
        (model_file, "it lacks the epoch"),
        (not_a_dictionary, "it lacks the epoch"),
        (no_epoch, "it lacks the epoch"),
        (a_number, "it lacks the epoch"),
        (a_tensor, "it lacks the epoch"),
    ],
)
def test_epoch_of_something_else(tmp_path: Path, make: Any, message: str) -> None:
    path = tmp_path / "checkpoint.pt"
    make(path)
    with pytest.raises(CheckpointError, match=message) as caught:
        checkpoint_epoch(path)
    assert str(path) in str(caught.value)
