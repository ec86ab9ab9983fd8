# SPDX-License-Identifier: Apache-2.0
"""The way from the released procedure to the bundle's defaults, one change at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .bundle import Bundle

__all__ = ["Procedure", "procedures", "released_window"]

GENERATIONS = 9
FEW_STEPS = 10


@dataclass(frozen=True)
class Procedure:
    """One way to segment an image.

    Attributes:
        key: short name.
        name: what differs from the one before.
        arguments: of the inferer, where they differ from the bundle's.
        channels_last: memory layout of the network's weights.
    """

    key: str
    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    channels_last: bool = True

    def window(self, bundle: Bundle) -> int:
        """Return the edge of the windows, in pixels."""
        return int(self.arguments.get("roi_size") or bundle.value("window_size"))


def procedures(bundle: Bundle, extras: bool = False) -> list[Procedure]:
    """List the released procedure, the same with one change after another, and the bundle's defaults.

    The released one: image encoder in every pass, generations one after another, ancestral sampling over all training
    steps, 9 generations, the windows of ``paper.json`` without overlap. Its row is float32 on every device (on a GPU
    with TF32 in convolutions, PyTorch's default), where the released code runs in float16 on a GPU.

    Args:
        bundle: the bundle, whose device and defaults are used.
        extras: add what the defaults leave off: compilation and joint windows.
    """
    training_steps = int(bundle.value("num_train_timesteps"))
    arguments: dict[str, Any] = {
        "scheduler": {
            "_target_": "monai_segdiff.RespacedDDPMScheduler",
            "num_train_timesteps": "@num_train_timesteps",
            "prediction_type": "@prediction_type",
            "variance_type": "fixed_large",
            "clip_sample": False,
        },
        "num_inference_steps": training_steps,
        "num_generations": GENERATIONS,
        "roi_size": released_window(bundle),
        "overlap": 0.0,
        "mode": "constant",
        "cache_image_features": False,
        "max_batch": 1,
        "amp": False,
    }
    rows = [Procedure("released", "released procedure", dict(arguments), channels_last=False)]

    def change(key: str, name: str, drop: tuple[str, ...] = (), channels_last: bool = True, **changes: Any) -> None:
        arguments.update(changes)
        for argument in drop:
            # Left to the bundle, or to the inferer where the bundle says nothing.
            del arguments[argument]
        rows.append(Procedure(key, name, dict(arguments), channels_last))

    steps, generations = bundle.value("num_inference_steps"), bundle.value("num_generations")
    change("cached", "+ image encoded once", drop=("cache_image_features",), channels_last=False)
    change("channels_last", "+ channels-last memory")
    if bundle.value("amp"):
        change("bfloat16", "+ bfloat16", amp=True)
    change("packed", "+ generations packed", drop=("max_batch",))
    few = min(FEW_STEPS, training_steps)
    change("few_steps", f"+ {few} steps of the bundle's sampler", drop=("scheduler",), num_inference_steps=few)
    change("default_steps", f"+ {steps} step{'s' * (steps > 1)}", drop=("num_inference_steps",))
    change("default_generations", f"+ {generations} generation{'s' * (generations > 1)}", drop=("num_generations",))
    windows = f"+ {100 * bundle.value('window_overlap'):g} % overlapping windows of {bundle.value('window_size')}"
    change("default", f"{windows} = default", drop=("roi_size", "overlap", "mode"))
    if extras:
        default = dict(arguments)
        rows.append(Procedure("compiled", "default, compiled", {**default, "compile": True}))
        rows.append(Procedure("joint", "default, joint windows", {**default, "window_mode": "joint"}))
    return rows


def released_window(bundle: Bundle) -> int:
    """Return the edge of the released procedure's windows, in pixels; an override of the bundle's holds for both."""
    return int(Bundle(bundle.overrides, ("paper",), bundle.root).value("window_size"))
