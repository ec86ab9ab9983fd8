# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import math
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import MeanDice, ValidationHandler, from_engine
from monai.transforms import AsDiscreted
from PIL import Image

from monai_segdiff.handlers import training_curves
from monai_segdiff.handlers.training_curves import TrainingCurves, _Throttle, _trailing_mean


def data() -> Dataset:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(6, 1, 8, 8, generator=generator)
    return Dataset([{"image": image, "label": (image > 0.5).float()} for image in images])


def as_list(output: list | dict) -> list:
    return output if isinstance(output, list) else [output]


def run(
    folder: Path, epochs: int, resume: bool = False, decollate: bool = True, metric_name: str = "val_dice"
) -> tuple[TrainingCurves, list[float], list[float]]:
    """Train a one-layer network; returns the handler and the losses and scores as seen from outside."""
    torch.manual_seed(0)
    network = torch.nn.Conv2d(1, 1, 1)
    losses: list[float] = []
    scores: list[float] = []
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(data(), batch_size=2),
        network=network,
        postprocessing=AsDiscreted(keys="pred", threshold=0.5),
        key_val_metric={"val_dice": MeanDice(output_transform=from_engine(["pred", "label"]))},
    )
    curves = TrainingCurves(folder, evaluator, metric_name, resume=resume)
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=epochs,
        train_data_loader=DataLoader(data(), batch_size=2),
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=0.5),
        loss_function=torch.nn.MSELoss(),
        train_handlers=[ValidationHandler(interval=2, validator=evaluator)],
        decollate=decollate,
    )
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED,
        lambda engine: losses.append(
            torch.as_tensor(from_engine("loss", first=True)(as_list(engine.state.output))).item()
        ),
    )
    evaluator.add_event_handler(Events.COMPLETED, lambda engine: scores.append(engine.state.metrics["val_dice"]))
    if resume:

        def restore(engine: Engine) -> None:
            engine.state.epoch, engine.state.iteration = 4, 12

        trainer.add_event_handler(Events.STARTED, restore)
    curves.attach(trainer)
    trainer.run()
    return curves, losses, scores


def load(folder: Path) -> dict:
    return json.loads((folder / "history.json").read_text())


def read_picture(folder: Path) -> np.ndarray:
    with Image.open(folder / "curves.png") as image:
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("decollate", [True, False])
def test_history_and_picture(tmp_path: Path, decollate: bool) -> None:
    backend = mpl.get_backend()
    _, losses, scores = run(tmp_path / "new", epochs=4, decollate=decollate)
    history = load(tmp_path / "new")
    assert history["loss"]["iteration"] == list(range(1, 13))
    assert history["loss"]["value"] == pytest.approx(losses)
    assert history["validation"]["metric"] == "val_dice"
    assert history["validation"]["epoch"] == [2, 4]
    assert history["validation"]["iteration"] == [6, 12]
    assert history["validation"]["value"] == pytest.approx(scores)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["curves.png", "history.json"]
    picture = read_picture(tmp_path / "new")
    assert picture.shape == (600, 1080, 3)
    for color in ((0, 114, 178), (213, 94, 0)):
        assert (picture == np.array(color)).all(-1).sum() > 100, "both curves and their axis labels are drawn"
    assert mpl.get_backend() == backend


def test_written_at_each_epoch(tmp_path: Path) -> None:
    curves = TrainingCurves(tmp_path, draw_interval=1000)
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=3,
        train_data_loader=DataLoader(data(), batch_size=3),
        network=(network := torch.nn.Conv2d(1, 1, 1)),
        optimizer=torch.optim.SGD(network.parameters(), lr=0.1),
        loss_function=torch.nn.MSELoss(),
        train_handlers=[curves],
    )
    lengths, pictures = [], []

    @trainer.on(Events.EPOCH_COMPLETED)
    def look() -> None:
        lengths.append(len(load(tmp_path)["loss"]["value"]))
        pictures.append((tmp_path / "curves.png").stat().st_mtime_ns)

    trainer.run()
    assert lengths == [2, 4, 6]
    assert len(set(pictures)) == 1, "not redrawn within the interval"
    assert (tmp_path / "curves.png").stat().st_mtime_ns > pictures[0], "but at the end"


def test_resume(tmp_path: Path) -> None:
    # The run was killed in its sixth epoch, after a checkpoint of its fourth.
    _, losses, scores = run(tmp_path, epochs=5)
    run(tmp_path, epochs=6, resume=True)
    history = load(tmp_path)
    assert history["loss"]["iteration"] == list(range(1, 19))
    assert history["loss"]["value"][:12] == pytest.approx(losses[:12])
    assert history["validation"]["epoch"] == [2, 4, 6]
    assert history["validation"]["value"][:2] == pytest.approx(scores[:2])


def test_resume_without_a_history(tmp_path: Path) -> None:
    run(tmp_path, epochs=6, resume=True)
    assert load(tmp_path)["loss"]["iteration"] == list(range(13, 19))


def test_missing_metric(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="metrics \\['val_dice'\\], expected 'val_iou'"):
        run(tmp_path, epochs=2, metric_name="val_iou")


@pytest.mark.parametrize(
    ("losses", "scores"),
    [
        ([], []),
        ([math.nan], []),
        ([math.nan, 0.5, math.inf] * 40, [math.nan]),
        ([0.0, -1.0], [0.5, -3.0]),
        (list(np.linspace(1, 0.1, 20_000)), [0.1, 0.9]),
    ],
)
def test_unusual_values(tmp_path: Path, losses: list[float], scores: list[float]) -> None:
    curves = TrainingCurves(tmp_path)
    numbers = list(range(1, len(scores) + 1))
    curves._loss = {"iteration": list(range(1, len(losses) + 1)), "value": losses}
    curves._validation = {"epoch": numbers, "iteration": numbers, "value": scores}
    curves._write_json()
    curves._draw()
    history = load(tmp_path)
    assert [math.nan if x is None else x for x in history["loss"]["value"]] == pytest.approx(
        [x if math.isfinite(x) else math.nan for x in losses], nan_ok=True
    )
    assert read_picture(tmp_path).shape == (600, 1080, 3)


def test_other_ranks_do_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_curves.idist, "get_rank", lambda: 1)
    engine = Engine(lambda *_: None)
    TrainingCurves(tmp_path).attach(engine)
    engine.run([0], max_epochs=1)
    assert not list(tmp_path.iterdir())


def test_trailing_mean() -> None:
    values = np.array([1.0, 3.0, math.nan, 5.0, 7.0])
    np.testing.assert_allclose(_trailing_mean(values, 2), [1, 2, 3, 5, 6])
    np.testing.assert_allclose(_trailing_mean(np.array([math.nan, 1.0]), 1), [math.nan, 1])


def test_throttle(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(training_curves.time, "monotonic", lambda: now)
    calls = []

    def action() -> None:
        nonlocal now
        now += 1.0  # an expensive write
        calls.append(now)

    throttle = _Throttle(interval=0.0)
    for _ in range(50):
        throttle.call(action, force=False)
        now += 1.0
    assert len(calls) == 3, "a second of writing in about twenty"
    throttle.call(action, force=True)
    assert len(calls) == 4
