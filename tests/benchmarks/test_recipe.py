# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import pytest

from benchmarks.bundle import Bundle
from benchmarks.recipe import RECIPES, Recipe, Stage
from benchmarks.release import DESCRIPTION, SET_HERE

STAGES = [
    pytest.param(recipe, stage, id=f"{row}-{stage.name}") for row, recipe in RECIPES.items() for stage in recipe.stages
]
# What decides the outcome of any training.
DECISIVE = {
    *("image_scale", "crop_size", "crops_per_image", "images_per_batch", "stain_strength", "stain_shift"),
    *("learning_rate", "warmup_iterations", "weight_decay", "max_gradient_norm", "ema_momentum", "ema_warmup"),
    *("rotate_padding", "zoom_padding"),
    *("max_epochs", "val_interval", "window_size", "window_overlap", "window_blending", "amp"),
}


@pytest.mark.parametrize(("recipe", "stage"), STAGES)
def test_options_are_entries_of_the_configs(recipe: Recipe, stage: Stage) -> None:
    for name in stage.extra_configs:
        assert (recipe.root / "configs" / f"{name}.json").is_file()
    bundle = Bundle(stage.overrides, stage.extra_configs, recipe.root)
    assert bundle.value("max_epochs") == stage.overrides["max_epochs"]
    assert not stage.overrides.keys() & SET_HERE


@pytest.mark.parametrize(("recipe", "stage"), STAGES)
def test_options_are_written_out(recipe: Recipe, stage: Stage) -> None:
    assert stage.overrides.keys() >= DECISIVE
    # In each stage the same ones, so that none is left to the bundle.
    assert stage.overrides.keys() == recipe.stages[0].overrides.keys()
    assert "@" not in json.dumps(dict(stage.overrides)), "depends on something else"


@pytest.mark.parametrize(("recipe", "stage"), STAGES)
def test_interruptions_cost_what_the_help_says(recipe: Recipe, stage: Stage) -> None:
    assert "At most five epochs are done again; of the base of DDPS 20" in DESCRIPTION.replace("\n", " ")
    assert stage.overrides["checkpoint_interval"] == 5
    assert stage.overrides.get("base_val_interval", 20) == 20


@pytest.mark.parametrize("row", RECIPES)
def test_names_of_stages(row: str) -> None:
    names = [stage.name for stage in RECIPES[row].stages]
    assert len(set(names)) == len(names) > 0
    assert not {"model", "split"} & set(names), "their records would be files of the release"
    assert all(name.isidentifier() for name in names)
