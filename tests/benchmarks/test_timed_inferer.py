# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import pytest
import torch
from monai.inferers import Inferer
from torch import nn

from benchmarks import timed_inferer as module
from benchmarks.timed_inferer import TimedInferer


class Clockwork(Inferer):
    """Returns what it is given, and lets the time pass that the first pixel says."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.calls: list[tuple[Any, ...]] = []

    def __call__(self, inputs: torch.Tensor, network: nn.Module, *args: Any, **kwargs: Any) -> torch.Tensor:
        self.calls.append((float(inputs), network, args, kwargs))
        self.now += float(inputs)
        return inputs


def test_each_call_is_timed_after_one_that_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    inner, network = Clockwork(), nn.Identity()
    monkeypatch.setattr(module.time, "perf_counter", lambda: inner.now)
    waits: list[torch.device] = []
    monkeypatch.setattr(module, "synchronize", waits.append)
    timed = TimedInferer(inner)
    for seconds in (3.0, 1.0, 2.0):
        given = torch.tensor(seconds)
        assert timed(given, network, 7, key=8) is given
    assert timed.seconds == [3, 1, 2]
    assert inner.calls == [(value, network, (7,), {"key": 8}) for value in (3, 3, 1, 2)]
    # Before and after each call: the device works on by itself.
    assert waits == [torch.device("cpu")] * 6
