# SPDX-License-Identifier: Apache-2.0
"""The released weights, made anew from the training images by the recipe of their row.

Run ``python -m benchmarks.release --help``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from monai_segdiff import atomic_write, monuseg_split
from monai_segdiff.data.split_file import PARTS, write_split_file
from monai_segdiff.exceptions import CheckpointError, DatasetError
from monai_segdiff.handlers.atomic_save import atomic_save
from monai_segdiff.handlers.strict_checkpoint_loader import read_checkpoint

from .bundle import Bundle
from .command import command_parser, overrides_of, readable_errors
from .recipe import RECIPES, Recipe
from .table import format_table
from .training_run import TrainingError, TrainingRun
from .training_sweep import OWN

__all__ = ["release"]

SET_HERE = {*OWN, "initial_weights"}
DESCRIPTION = """\
Train the weights of one row of the table of quality, by its recipe in benchmarks/recipe.py.

A recipe has one or more trainings (stages); each starts from the averaged weights of the one before. The result is what
the bundle's models/ folder holds: OUTPUT/ROW/model.pt in half precision, model.json and split.json. Beside them stand
each stage's run folder, its log and its record.

Run it again to continue: killed at any moment, the same command goes on from the last checkpoint, with new random
numbers, and no finished stage is repeated. At most five epochs are done again; of the base of DDPS 20, its validation
interval.

Some stages train in bfloat16 (amp). Processors without instructions for it emulate it, slowly: there, give
--override amp=false."""
EXAMPLE = "--row SegDiff --dataset_dir TRAIN --val_dataset_dir VALIDATION --output_dir runs/release"


def release(
    row: str,
    dataset_dir: str | Path,
    val_dataset_dir: str | Path,
    output_dir: str | Path,
    seed: int = 0,
    overrides: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Train the stages of a row's recipe, and write its weights; what is already there is not done again.

    Writes below ``output_dir/row`` for each stage ``STAGE`` (the run's folder), ``STAGE.log``, ``STAGE.json``, and
    ``STAGE.start.pt`` if it starts from another one; then ``split.json``, with paths without folders, ``model.json``,
    and last ``model.pt``, the averaged weights of the last stage's best validation in half precision. Equal weights
    make equal files.

    Args:
        row: one of :data:`~benchmarks.recipe.RECIPES`.
        dataset_dir: images to train on.
        val_dataset_dir: images to select on.
        output_dir: folder to write to, and to continue.
        seed: seed of all trainings.
        overrides: values for entries of the bundle's configs, in every stage.

    Returns:
        ``weights`` (path), ``next_command``, and ``stages``: for each ``name``, ``epochs``, ``best_epoch``,
        ``best_metric`` (on the grid of its ``image_scale``) and ``seconds``.

    Raises:
        KeyError: an override of an entry that the configs do not have.
        ValueError: an override of what the recipe itself sets.
        DatasetError: a dataset cannot be used, or the folder holds trainings with other options or from other weights.
        CheckpointError: weights or a checkpoint of an earlier start are damaged, or not for half precision.
        TrainingError: a training failed; the earlier ones remain.
    """
    overrides = dict(overrides or {})
    _refuse_own(overrides)
    recipe, folder = RECIPES[row], Path(output_dir).resolve() / row
    data = str(Path(dataset_dir).resolve()), str(Path(val_dataset_dir).resolve())
    monuseg_split(*data)  # fails now, not after the first process has started
    runs = _runs(recipe, data, folder, seed, overrides)
    for run in runs:
        run.check()
    stages = []
    with tqdm(runs, unit="stage") as progress:
        for index, run in enumerate(progress):
            name = run.folder.name
            progress.set_description(name)
            if index:
                _hand_over(runs[index - 1], run)
            tqdm.write(f"Stage {index + 1} of {len(runs)}, {name}: {run.epochs} epochs, its log is {run.log}")
            record = run.train()
            kept = {key: record[key] for key in ("best_epoch", "best_metric", "seconds")}
            stages.append({"name": name, "epochs": run.epochs, "image_scale": run.bundle.value("image_scale"), **kept})
    weights = _publish(runs[-1], folder)
    return {"weights": weights, "stages": stages, "next_command": _next_command(row, runs[-1], weights)}


def _refuse_own(overrides: Mapping[str, Any]) -> None:
    if found := sorted(SET_HERE & overrides.keys()):
        raise ValueError(f"{', '.join(found)}: set by the recipe, expected no override.")


def _runs(
    recipe: Recipe, data: tuple[str, str], folder: Path, seed: int, overrides: Mapping[str, Any]
) -> list[TrainingRun]:
    runs: list[TrainingRun] = []
    for stage in recipe.stages:
        # Without the settings beside the weights, which one stage may change against another.
        start = {"initial_weights": str(folder / f"{stage.name}.start.pt")} if runs else {}
        bundle = Bundle({**stage.overrides, **overrides, **start}, stage.extra_configs, recipe.root)
        runs.append(TrainingRun(bundle, *data, seed, folder / stage.name))
    return runs


def _hand_over(former: TrainingRun, run: TrainingRun) -> None:
    state, path = read_checkpoint(former.weights), Path(run.bundle.overrides["initial_weights"])
    if path.is_file() and (run.folder.exists() or run.record_path.exists()):
        used = read_checkpoint(path)
        if used.keys() != state.keys() or not all(torch.equal(value, used[name]) for name, value in state.items()):
            raise DatasetError(
                f"{run.folder}: was trained from other weights than the present ones of {former.folder}, expected the "
                f"same; remove it and {run.record_path.name}, so that it is trained again."
            )
    atomic_save(state, path)


def _publish(run: TrainingRun, folder: Path) -> Path:
    """Write what a bundle's models folder holds."""
    state = {
        name: value.half() if value.is_floating_point() else value
        for name, value in read_checkpoint(run.weights).items()
    }
    if bad := [name for name, value in state.items() if not value.isfinite().all()]:
        raise CheckpointError(f"Checkpoint {run.weights} has values that half precision has not, in {bad[0]}.")
    split = json.loads((run.folder / "split.json").read_text(encoding="utf-8"))
    for part in PARTS:  # the folders are those of one machine; images are known by their contents
        files = ({key: Path(entry[key]).name for key in ("image", "label")} for entry in split[part])
        split[part] = [{**entry, **names} for entry, names in zip(split[part], files, strict=True)]
    weights = folder / "model.pt"
    # Until the end there are no weights, rather than some beside the settings of others.
    weights.unlink(missing_ok=True)
    write_split_file(folder / "split.json", split)
    with atomic_write(weights.with_suffix(".json")) as temporary:
        shutil.copyfile(run.weights.with_suffix(".json"), temporary)
    # To an open file: otherwise its random temporary name gets into it.
    with atomic_write(weights) as temporary, open(temporary, "wb") as file:
        torch.save(state, file)
    return weights


def _next_command(row: str, run: TrainingRun, weights: Path) -> str:
    """The command that scores the weights, with the settings that are not the bundle's own."""
    bundle = run.bundle
    known = json.loads((bundle.root / "configs" / "inference.json").read_text(encoding="utf-8"))
    own = Bundle({}, bundle.extra_configs, bundle.root)
    settings: dict[str, Any] = {
        name: value
        for name, value in bundle.overrides.items()
        # All rows of a table are computed on one device, in the precision that the bundle chooses there.
        if name.partition("#")[0] in known and name not in ("device", "amp") and own.config(name) != value
    }
    words = [f"{row}={bundle.root}", f"ckpt={weights}", *(f"config={name}" for name in bundle.extra_configs)]
    words += [f"{name}={json.dumps(value)}" for name, value in settings.items()]
    return shlex.join(["python", "-m", "benchmarks.quality", "--dataset_dir", run.val_dataset_dir, "--row", *words])


def _report(found: Mapping[str, Any]) -> str:
    weights: Path = found["weights"]
    lines = [["stage", "epochs", "best epoch", "image scale", "validation Dice", "minutes"]]
    for stage in found["stages"]:
        numbers = str(stage["image_scale"]), f"{stage['best_metric']:.4f}", f"{stage['seconds'] / 60:.1f}"
        lines.append([stage["name"], str(stage["epochs"]), str(stage["best_epoch"]), *numbers])
    return (
        f"{format_table(lines)}\n\n"
        f"Weights:  {weights}\n"
        f"Size:     {weights.stat().st_size / 1e6:.1f} MB\n"
        f"SHA-256:  {hashlib.sha256(weights.read_bytes()).hexdigest()}\n"
        f"Settings: {weights.with_suffix('.json')}\n"
        f"Split:    {weights.with_name('split.json')}\n"
        f"Next:     {found['next_command']}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command with the given words, default: those of the command line."""
    parser = command_parser("benchmarks.release", DESCRIPTION, EXAMPLE)
    parser.add_argument("--row", required=True, choices=RECIPES, help="whose recipe to follow")
    parser.add_argument("--dataset_dir", required=True, help="images to train on")
    parser.add_argument("--val_dataset_dir", required=True, help="images to select on")
    parser.add_argument("--output_dir", required=True, help="folder to write to, and to continue")
    parser.add_argument("--seed", type=_seed, default=0, help="seed of all trainings; default: 0")
    options = parser.parse_args(arguments)
    overrides = overrides_of(options)
    with readable_errors(parser):
        try:
            _refuse_own(overrides)
        except ValueError as error:
            parser.error(str(error))
        given = {name: getattr(options, name) for name in ("row", "dataset_dir", "val_dataset_dir", "output_dir")}
        try:
            found = release(**given, seed=options.seed, overrides=overrides)
        except TrainingError as error:
            parser.exit(1, f"{error}\n")
    print(_report(found))


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 0.")
    return int(text)


if __name__ == "__main__":
    main()
