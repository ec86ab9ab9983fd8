# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from ignite.engine import Engine
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents
from torch import nn

from monai_segdiff.handlers import GradientClipping


def norm(network: nn.Module) -> float:
    return torch.stack([p.grad.norm() for p in network.parameters()]).norm().item()


def run(max_norm: float | None) -> tuple[float, list[torch.Tensor], list[torch.Tensor]]:
    """One step of SGD with learning rate 1; returns gradient norm, gradients, and change of the weights."""
    torch.manual_seed(0)
    network = nn.Conv2d(1, 2, 3)
    before = [p.detach().clone() for p in network.parameters()]
    items = [{"image": torch.rand(1, 6, 6), "label": 9 * torch.ones(2, 4, 4)} for _ in range(2)]
    seen = []
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=1,
        train_data_loader=DataLoader(Dataset(items), batch_size=2),
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=1.0),
        loss_function=nn.MSELoss(),
        train_handlers=[] if max_norm is None else [GradientClipping(network, max_norm)],
    )

    def look(engine: Engine) -> None:
        seen.append((norm(network), [p.grad.clone() for p in network.parameters()]))

    trainer.add_event_handler(IterationEvents.BACKWARD_COMPLETED, look)
    trainer.run()
    change = [old - new.detach() for old, new in zip(before, network.parameters(), strict=True)]
    return *seen[0], change


def test_norm_after_clipping() -> None:
    free, gradients, _ = run(None)
    assert free > 10
    clipped, scaled, change = run(0.5)
    assert clipped == pytest.approx(0.5, rel=1e-4)
    for one, other, step in zip(gradients, scaled, change, strict=True):
        torch.testing.assert_close(other, one * (0.5 / free), rtol=1e-4, atol=0)
        torch.testing.assert_close(step, other, rtol=1e-4, atol=1e-6)  # the optimiser used the clipped gradient


@pytest.mark.parametrize("max_norm", [1e6, float("inf")])
def test_small_gradients_stay(max_norm: float) -> None:
    free, gradients, _ = run(None)
    clipped, scaled, _ = run(max_norm)
    assert clipped == free
    assert all(torch.equal(one, other) for one, other in zip(gradients, scaled, strict=True))


def test_loss_scale_is_taken_out_first() -> None:
    torch.manual_seed(0)
    network = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    before = network.weight.detach().clone()
    scaler.scale(network(torch.ones(2, 4)).sum()).backward()
    assert norm(network) == pytest.approx(1024 * 2 * 5**0.5)
    engine = SimpleNamespace(scaler=scaler, optimizer=optimizer)
    GradientClipping(network, 10.0)(engine)
    assert norm(network) == pytest.approx(2 * 5**0.5)
    scaler.step(optimizer)  # does not divide a second time
    torch.testing.assert_close(before - network.weight.detach(), torch.full((1, 4), 2.0))
