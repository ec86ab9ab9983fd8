# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import pytest
import torch
from ignite.engine import Engine

from monai_segdiff import DivergenceGuard
from monai_segdiff.exceptions import DivergenceError


@pytest.mark.parametrize("decollated", [True, False])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_ends_the_run_at_once(decollated: bool, bad: float) -> None:
    losses = [0.5, 0.4, bad, 0.3]

    def step(engine: Engine, batch: int) -> object:
        output = {"loss": torch.tensor(losses[batch])}
        return [output] if decollated else output

    engine = Engine(step)
    DivergenceGuard("run/checkpoint.pt").attach(engine)
    with pytest.raises(DivergenceError, match=r"at iteration 3.*run/checkpoint\.pt"):
        engine.run(range(4))
