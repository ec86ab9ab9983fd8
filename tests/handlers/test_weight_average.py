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


def test_every_25_iterations_as_published() -> None:
    network = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(network.weight)
    average = WeightAverage(EMAHandler(network, momentum=0.01), warmup=False, interval=25)
    averages = train(average, network, 0, 80)
    # 0.01 * 25; 0.99 of that + 0.01 * 50; 0.99 of that + 0.01 * 75
    expected = [0.0] * 24 + [0.25] * 25 + [0.7475] * 25 + [1.490025] * 6
    assert averages == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("interval", [1, 7])
def test_the_momentum_of_the_warmup_goes_by_the_iteration(interval: int) -> None:
    network = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(network.weight)
    averages = train(WeightAverage(EMAHandler(network, momentum=0.1), interval=interval), network, 0, 60)
    mean = 0.0
    for i in range(interval, 61, interval):
        mean += max(0.1, 9 / (10 + i)) * (i - mean)
    assert averages[-1] == pytest.approx(mean, rel=1e-4)


def test_what_is_not_trained_stays_bit_for_bit() -> None:
    torch.manual_seed(0)
    network = nn.ModuleDict({"frozen": nn.Linear(50, 50).requires_grad_(False), "trained": nn.Linear(2, 2)})
    ema = EMAHandler(network, momentum=0.01)
    started = {name: value.clone() for name, value in ema.ema_model.state_dict().items()}

    def step(engine: Engine, batch: int) -> None:
        nn.init.normal_(network["trained"].weight)

    engine = Engine(step)
    WeightAverage(ema).attach(engine)
    engine.run(range(100))
    changed = {name for name, value in ema.ema_model.state_dict().items() if not torch.equal(value, started[name])}
    assert "trained.weight" in changed
    assert not changed & {"frozen.weight", "frozen.bias"}
    own = {parameter.data_ptr() for parameter in ema.ema_model.parameters()}
    assert not own & {parameter.data_ptr() for parameter in network.parameters()}


@pytest.mark.parametrize("interval", [0, -1])
def test_bad_interval(interval: int) -> None:
    with pytest.raises(ValueError, match=f"interval must be at least 1, found {interval}"):
        WeightAverage(EMAHandler(nn.Linear(1, 1)), interval=interval)
