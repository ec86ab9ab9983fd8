# SPDX-License-Identifier: Apache-2.0
"""Clipping of the gradient's norm between backward pass and optimiser step."""

from __future__ import annotations

from ignite.engine import Engine
from monai.engines.utils import IterationEvents
from torch import nn

__all__ = ["GradientClipping"]


class GradientClipping:
    """Handler of a ``SupervisedTrainer`` that clips the norm of the gradient.

    Args:
        network: whose gradient to clip.
        max_norm: largest norm, over all parameters.
    """

    def __init__(self, network: nn.Module, max_norm: float = 1.0) -> None:
        self.network = network
        self.max_norm = max_norm

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        if engine.scaler is not None:  # type: ignore[attr-defined]
            # With mixed precision the gradients are still multiplied by the loss scale here.
            engine.scaler.unscale_(engine.optimizer)  # type: ignore[attr-defined]
        nn.utils.clip_grad_norm_(self.network.parameters(), self.max_norm)
