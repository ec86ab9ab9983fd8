# SPDX-License-Identifier: Apache-2.0
"""How the released weights were trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .bundle import MONUSEG

__all__ = ["RECIPES", "Recipe", "Stage"]


@dataclass(frozen=True)
class Stage:
    """One training of a recipe.

    Attributes:
        name: its name, and that of its run's folder.
        overrides: values for entries of the bundle's configs.
        extra_configs: names of further config files of the bundle that go over ``train``.
    """

    name: str
    overrides: Mapping[str, Any]
    extra_configs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Recipe:
    """Trainings one after the other, each from the averaged weights of the one before.

    Attributes:
        root: the bundle's folder.
        stages: the trainings; the first starts from random weights.
    """

    root: Path
    stages: tuple[Stage, ...]


# Stages say what the bundle's defaults say as well: these may change, and released weights must stay repeatable. Left
# to the bundle are what has no option of its own (network, optimiser, ranges of the augmentations) and image_mean,
# image_std, window_mode and threshold, with which it also serves the weights.
SHARED = {
    "crops_per_image": 4,
    "images_per_batch": 2,
    "rotate_padding": "reflection",
    "zoom_padding": "reflect",
    "warmup_iterations": 50,
    "weight_decay": 0.0001,
    "max_gradient_norm": 1.0,
    "ema_momentum": 0.005,
    "ema_warmup": True,
    "window_overlap": 0.25,
    "window_blending": "gaussian",
    "checkpoint_interval": 5,
}
SEGDIFF = {
    **SHARED,
    "num_train_timesteps": 100,
    "prediction_type": "sample",
    "prediction_share": 0.5,
    "bce_weight": 0.0,
    "num_inference_steps": 1,
    "num_generations": 1,
}
STAINS = {"stain_strength": 0.2, "stain_shift": 0.02}
NO_STAINS = {"stain_strength": 0.0, "stain_shift": 0.0}

RECIPES: dict[str, Recipe] = {
    "SegDiff": Recipe(
        MONUSEG,
        (
            # As published, at the scale of the published figures: most of the epochs, where one is cheapest.
            Stage(
                "published",
                {
                    **SEGDIFF,
                    **NO_STAINS,
                    "image_scale": 0.512,
                    "crop_size": 128,
                    "window_size": 256,
                    "noise_on": "truth",
                    "dice_weight": 0.0,
                    "timestep_weights": "uniform",
                    "learning_rate": 0.0005,
                    "max_epochs": 200,
                    "val_interval": 20,
                    "amp": False,
                },
            ),
            # Noise on what the network itself predicts, as in sampling: what makes one step as good as many.
            Stage(
                "few_steps",
                {
                    **SEGDIFF,
                    **NO_STAINS,
                    "image_scale": 0.512,
                    "crop_size": 128,
                    "window_size": 128,
                    "noise_on": "prediction",
                    "dice_weight": 0.5,
                    "timestep_weights": "uniform",
                    "learning_rate": 0.0002,
                    "max_epochs": 30,
                    "val_interval": 30,
                    "amp": False,
                },
            ),
            # All pixels. An epoch is as many crops as before, each of 2.25 times the pixels (192^2 / 128^2); a whole
            # image has about four times as many. Half of the draws are the level at which a single step starts.
            Stage(
                "native",
                {
                    **SEGDIFF,
                    **STAINS,
                    "image_scale": 1.0,
                    "crop_size": 192,
                    "window_size": 256,
                    "noise_on": "prediction",
                    "dice_weight": 0.5,
                    "timestep_weights": "$[1.0] * 99 + [99.0]",
                    "learning_rate": 0.0005,
                    "max_epochs": 140,
                    "val_interval": 10,
                    "amp": True,
                },
            ),
        ),
    ),
    "U-Net": Recipe(
        MONUSEG,
        (
            # About as many pixels of crops as all stages of SegDiff, which have 370 epochs: 240 epochs of 192^2 a crop,
            # against 230 of 128^2 and 140 of 192^2.
            Stage(
                "native",
                {
                    **SHARED,
                    **STAINS,
                    "image_scale": 1.0,
                    "crop_size": 192,
                    "window_size": 256,
                    "learning_rate": 0.002,
                    "max_epochs": 240,
                    "val_interval": 20,
                    "amp": True,
                },
                extra_configs=("unet",),
            ),
        ),
    ),
    "DDPS": Recipe(
        MONUSEG.with_name("monuseg_ddps"),
        (
            # The bundle itself trains the base first, then the prior on top of it.
            Stage(
                "base_and_prior",
                {
                    **SHARED,
                    **NO_STAINS,
                    "image_scale": 0.512,
                    "crop_size": 128,
                    "window_size": 256,
                    "base_learning_rate": 0.002,
                    "base_weight_decay": 0.0001,
                    "base_max_gradient_norm": 1.0,
                    "base_ema_momentum": 0.005,
                    "base_ema_warmup": True,
                    "base_epochs": 240,
                    "base_val_interval": 20,
                    "num_train_timesteps": 20,
                    "schedule": "ddps_linear",
                    "kernel": "uniform",
                    "sampler": "re_noise",
                    "start": "noise",
                    "base_weight": 0.0,
                    "num_inference_steps": 3,
                    "num_generations": 1,
                    "noise_on": "first_prediction",
                    "loss": "dice_ce",
                    "single_step_epochs": 50,
                    "ema_interval": 1,
                    "learning_rate": 0.001,
                    "max_epochs": 100,
                    "val_interval": 10,
                    "amp": False,
                },
            ),
        ),
    ),
}
