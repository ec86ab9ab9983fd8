# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from types import SimpleNamespace

import pytest
from ignite.engine import Engine, Events

from monai_segdiff.handlers import SingleStepStage


def stages(epochs: int, done: int = 0, max_epochs: int = 5) -> dict[int, bool]:
    """Return for each epoch whether all its batches were of the first stage."""
    prepare_batch = SimpleNamespace(single_step=None)
    seen: dict[int, set[bool]] = {}

    def step(engine: Engine, batch: int) -> None:
        seen.setdefault(engine.state.epoch, set()).add(prepare_batch.single_step)

    engine = Engine(step)
    SingleStepStage(prepare_batch, epochs).attach(engine)  # type: ignore[arg-type]
    engine.add_event_handler(Events.STARTED, lambda: setattr(engine.state, "epoch", done))
    engine.run(range(3), max_epochs=max_epochs)
    assert all(len(flags) == 1 for flags in seen.values())
    return {epoch: flags.pop() for epoch, flags in seen.items()}


@pytest.mark.parametrize("epochs", [0, 1, 2, 5, 9])
def test_first_epochs(epochs: int) -> None:
    assert stages(epochs) == {epoch: epoch <= epochs for epoch in range(1, 6)}


@pytest.mark.parametrize("done", [1, 2, 3])
def test_a_resumed_run_is_in_the_stage_that_it_left(done: int) -> None:
    whole = stages(epochs=2)
    assert stages(epochs=2, done=done) == {epoch: whole[epoch] for epoch in range(done + 1, 6)}


def test_negative_number_of_epochs() -> None:
    with pytest.raises(ValueError, match="epochs must be at least 0, found -1"):
        SingleStepStage(SimpleNamespace(), -1)  # type: ignore[arg-type]
