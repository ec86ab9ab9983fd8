# SPDX-License-Identifier: Apache-2.0
"""The ways to segment that tell what a mask prior gains, and by what."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["BASE", "DDPS", "HEAD", "WEIGHTS", "MaskPriorArm", "mask_prior_arms"]

WEIGHTS = ("first_prediction", "single_step", "ground_truth")
BASE, HEAD, DDPS = "base", "head, one step", "DDPS, 3 steps"


@dataclass(frozen=True)
class MaskPriorArm:
    """One way to segment; the settings are those of the bundle's configs.

    Attributes:
        name: what the tables call it.
        weights: which of ``WEIGHTS`` it uses.
        num_inference_steps: calls of the denoiser, 0 for the base alone.
        sampler: how a step is taken.
        start: what the refinement starts from.
        num_generations: results to average.
        base_weight: share of the base in the result.
    """

    name: str
    weights: str
    num_inference_steps: int = 3
    sampler: str = "re_noise"
    start: str = "noise"
    num_generations: int = 1
    base_weight: float = 0.0

    @property
    def settings(self) -> dict[str, Any]:
        """All but its name and its weights, as overrides of the configs."""
        return {name: value for name, value in asdict(self).items() if name not in ("name", "weights")}

    @property
    def folder(self) -> str:
        """Its name as that of a folder."""
        return re.sub(r"\W+", "_", self.name)


def mask_prior_arms(weights: Collection[str], num_train_timesteps: int) -> list[MaskPriorArm]:
    """List the arms of the comparison, the base first.

    Args:
        weights: which of ``WEIGHTS`` there are; arms that need others are left out.
        num_train_timesteps: steps of the training; arms with more steps are left out.

    Example:
        >>> [arm.name for arm in mask_prior_arms(["first_prediction"], 1)]
        ['base', 'DDPS, first step']
    """
    ours, single, truth = WEIGHTS
    arms = [
        MaskPriorArm(BASE, ours, 0),
        MaskPriorArm(HEAD, single, 1),
        MaskPriorArm("DDPS, first step", ours, 1),
        *(MaskPriorArm(f"DDPS, {steps} steps", ours, steps) for steps in (3, 5, 10)),
        MaskPriorArm("DDPS, 3 steps, posterior", ours, sampler="posterior"),
        MaskPriorArm("DDPS, 3 steps, from base", ours, start="base_prediction"),
        MaskPriorArm("DDPS, 3 steps, 5 samples", ours, num_generations=5),
        MaskPriorArm("noise on truth, 3 steps", truth),
        MaskPriorArm("ensemble, base + head", single, 1, base_weight=0.5),
        MaskPriorArm("ensemble, base + DDPS", ours, base_weight=0.5),
    ]
    # From the base's prediction the first timestep is left out, so that one step less is to be had.
    return [
        arm
        for arm in arms
        if arm.weights in weights and arm.num_inference_steps + (arm.start != "noise") <= num_train_timesteps
    ]
