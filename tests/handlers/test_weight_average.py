# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from ignite.engine import Engine, Events
from ignite.handlers import EMAHandler
from torch import nn

from monai_segdiff import WeightAverage


def train(average: WeightAverage, network: nn.Linear, first: int, last: int) -> list[float]:
    """Set the weight to the number of the iteration, as training would change it; return the averages."""
    averages = []

    def step(engine: Engine, batch: int) -> None:
        nn.init.constant_(network.weight, float(engine.state.iteration))

    engine = Engine(step)
    average.attach(engine)
    engine.add_event_handler(Events.STARTED, lambda: setattr(engine.state, "iteration", first))
    engine.add_event_handler(Events.ITERATION_COMPLETED, lambda: averages.append(average.ema.ema_model.weight.item()))
    engine.run(range(last), epoch_length=last)
    return averages


@pytest.mark.parametrize("warmup", [True, False])
def test_average_follows_the_formula(warmup: bool) -> None:
    network = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(network.weight)
    averages = train(WeightAverage(EMAHandler(network, momentum=0.1), warmup), network, 0, 200)
    expected, mean = [], 0.0
    for i in range(1, 201):
        momentum = max(0.1, 9 / (10 + i)) if warmup else 0.1
        mean += momentum * (i - mean)
        expected.append(mean)
    assert averages == pytest.approx(expected, rel=1e-4)


def test_a_resumed_run_keeps_its_average() -> None:
    network = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(network.weight)
    whole = train(WeightAverage(EMAHandler(network, momentum=0.01)), network, 0, 60)
    nn.init.zeros_(network.weight)
    first = WeightAverage(EMAHandler(network, momentum=0.01))
    parts = train(first, network, 0, 30)
    rest = WeightAverage(EMAHandler(network, momentum=0.01))
    rest.ema.ema_model.load_state_dict(first.ema.ema_model.state_dict())
    parts += train(rest, network, 30, 60)
    assert parts == pytest.approx(whole)
    assert torch.isfinite(rest.ema.ema_model.weight).all()
