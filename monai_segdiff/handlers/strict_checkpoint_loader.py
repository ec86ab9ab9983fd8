# SPDX-License-Identifier: Apache-2.0
"""Strict loading of network weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import nn

from ..exceptions import CheckpointError

__all__ = ["StrictCheckpointLoader", "load_weights", "read_checkpoint"]


def read_checkpoint(path: str | Path) -> Any:
    """Load a checkpoint onto the CPU, without running any code it may hold.

    Raises:
        CheckpointError: the file is missing or is not a whole checkpoint.
    """
    if not Path(path).is_file():
        raise CheckpointError(f"Checkpoint {path} does not exist.")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types on damaged files, OSError and KeyError among them
        raise CheckpointError(f"Checkpoint {path} is damaged or not a PyTorch checkpoint: {error}") from error


def load_weights(network: nn.Module, path: str | Path, settings: Mapping[str, Any] | None = None) -> None:
    """Load weights into a network; every tensor must find its place.

    Args:
        network: the network, plain or wrapped for distributed training.
        path: a state dict, plain or under the key ``model``. Half-precision tensors are widened.
        settings: what the weights must have been trained with; compared with the ``.json`` file of the same name beside
            ``path``, if there is one. The shapes of weights do not tell, for example, what the network predicts.

    Raises:
        CheckpointError: the file is missing, damaged, or was written for another network or other settings.
    """
    beside = Path(path).with_suffix(".json")
    if settings is not None and beside.is_file():
        try:
            found = json.loads(beside.read_text(encoding="utf-8"))
        except ValueError as error:
            raise CheckpointError(f"{beside}: the settings of the weights cannot be read: {error}") from error
        check_settings(found, settings, path)
    checkpoint = read_checkpoint(path)
    state = checkpoint.get("model", checkpoint) if isinstance(checkpoint, Mapping) else checkpoint
    load_state(getattr(network, "module", network), state, path)


def load_state(network: nn.Module, state: Any, path: str | Path) -> None:
    """Load a state dict strictly; ``path`` is named in errors."""
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise CheckpointError(f"Checkpoint {path} holds no state dict of tensors.")
    own = network.state_dict()
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    reshaped = [key for key in own.keys() & state.keys() if own[key].shape != state[key].shape]
    if missing or unexpected or reshaped:
        # Checked beforehand, so that a checkpoint of another network leaves this one as it was.
        examples = (missing + unexpected + sorted(reshaped))[:3]
        raise CheckpointError(
            f"Checkpoint {path} was written for another network than {type(network).__name__} as configured: "
            f"{len(missing)} tensors are missing, {len(unexpected)} are not known, {len(reshaped)} have another shape; "
            f"for example {', '.join(examples)}."
        )
    network.load_state_dict(dict(state))


def check_settings(found: Mapping[str, Any], expected: Mapping[str, Any], path: str | Path) -> None:
    """Compare the settings of a checkpoint with those of the configs.

    Raises:
        CheckpointError: they differ; the message names what does.
    """
    differing = [name for name in expected if name in found and found[name] != expected[name]]
    if differing:
        name = differing[0]
        raise CheckpointError(
            f"Checkpoint {path} was trained with {name}={found[name]!r}, expected {expected[name]!r} as configured; "
            f"differing settings: {differing}."
        )


class StrictCheckpointLoader:
    """Handler that loads weights into a network when the engine starts; see :func:`load_weights`.

    MONAI's federated client leaves out handlers with ``CheckpointLoader`` in their name, so that the weights that the
    server sent are the ones evaluated.

    Args:
        network: the network.
        path: the checkpoint.
        settings: what the weights must have been trained with.
    """

    def __init__(self, network: nn.Module, path: str | Path, settings: Mapping[str, Any] | None = None) -> None:
        self.network = network
        self.path = path
        self.settings = settings

    def attach(self, engine: Engine) -> None:
        """Register with an engine."""
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Engine) -> None:
        load_weights(self.network, self.path, self.settings)
