# SPDX-License-Identifier: Apache-2.0
"""Averaging of the weights over the iterations, with a warm-up that survives a resume."""

from __future__ import annotations

from ignite.engine import Engine, Events
from ignite.handlers import EMAHandler

__all__ = ["WeightAverage"]


class WeightAverage:
    """Handler that runs Ignite's ``EMAHandler`` with a momentum that depends on the iteration alone.

    The momentum (the share of the new weights) falls as ``9 / (10 + iteration)`` until it reaches that of the
    ``EMAHandler``: early on the average forgets the initial weights quickly. Ignite's own warm-up counts from the
    start of the process, so that a resumed run would throw its average away.

    Args:
        ema: holds the averaged network, ``ema.ema_model``.
        warmup: False uses the momentum of ``ema`` from the first iteration, as published.
    """

    def __init__(self, ema: EMAHandler, warmup: bool = True) -> None:
        self.ema = ema
        self.warmup = warmup

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        if self.warmup:
            engine.add_event_handler(Events.ITERATION_STARTED, self._set_momentum)
        self.ema.attach(engine)

    def _set_momentum(self, engine: Engine) -> None:
        engine.state.ema_momentum = max(self.ema.momentum, 9 / (10 + engine.state.iteration))  # type: ignore[attr-defined]
