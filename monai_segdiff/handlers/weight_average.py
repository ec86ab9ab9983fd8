# SPDX-License-Identifier: Apache-2.0
"""Averaging of the weights over the iterations, with a warm-up that survives a resume."""

from __future__ import annotations

import torch
from ignite.engine import Engine, Events
from ignite.handlers import EMAHandler

__all__ = ["WeightAverage"]


class WeightAverage:
    """Handler that runs Ignite's ``EMAHandler`` with a momentum that depends on the iteration alone.

    The momentum (the share of the new weights) falls as ``9 / (10 + iteration)`` until it reaches that of the
    ``EMAHandler``: early on the average forgets the initial weights quickly. Ignite's own warm-up counts from the
    start of the process, so that a resumed run would throw its average away. Parameters that are not trained stay bit
    for bit what they are: averaged with themselves they would drift by rounding.

    Args:
        ema: holds the averaged network, ``ema.ema_model``.
        warmup: False uses the momentum of ``ema`` from the first iteration, as published.
        interval: iterations between two updates: 1 for SegDiff, 25 for DDPS, as published.

    Raises:
        ValueError: an interval below 1.
    """

    def __init__(self, ema: EMAHandler, warmup: bool = True, interval: int = 1) -> None:
        if interval < 1:
            raise ValueError(f"interval must be at least 1, found {interval}.")
        self.ema = ema
        self.warmup = warmup
        self.interval = interval

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        if self.warmup:
            engine.add_event_handler(Events.ITERATION_STARTED, self._set_momentum)
        event = Events.ITERATION_COMPLETED(every=self.interval)
        self.ema.attach(engine, event=event)
        engine.add_event_handler(event, self._restore_frozen)

    def _set_momentum(self, engine: Engine) -> None:
        engine.state.ema_momentum = max(self.ema.momentum, 9 / (10 + engine.state.iteration))  # type: ignore[attr-defined]

    @torch.no_grad()
    def _restore_frozen(self) -> None:
        for averaged, parameter in zip(self.ema.ema_model.parameters(), self.ema.model.parameters(), strict=True):
            if not parameter.requires_grad:
                averaged.copy_(parameter)
