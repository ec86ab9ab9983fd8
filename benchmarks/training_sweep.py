# SPDX-License-Identifier: Apache-2.0
"""What a choice changes: one training for each value of a config entry, and the scores of what was trained.

Run ``python -m benchmarks.training_sweep --help``.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from monai_segdiff import monuseg_split

from .bundle import Bundle
from .command import command_parser, json_value, override, overrides_of, positive, readable_errors
from .few_steps import read_setting, score_weights
from .study import Setting
from .table import write_csv, write_json
from .training_run import TrainingError, TrainingRun
from .training_sweep_plot import draw_training_sweep
from .training_sweep_table import flat_rows, format_training_sweep, seed_mean

__all__ = ["Arm", "training_sweep"]

EXAMPLE = """--dataset_dir TRAIN --val_dataset_dir VALIDATION --output_dir runs/rrdb \\
      --vary network_def#num_rrdb_blocks --values 1 3 5 10 --label "RRDB blocks" --override max_epochs=200
  python -m benchmarks.training_sweep --dataset_dir TRAIN --val_dataset_dir VALIDATION --output_dir runs/conditioning \\
      --arm sum --arm "both channels" network_def#conditioning=concat_features --seeds 0 1 --settings 1x1 3x4"""
# What the sweep itself sets.
OWN = ("bundle_root", "dataset_dir", "val_dataset_dir", "run_dir", "seed", "resume")


@dataclass(frozen=True)
class Arm:
    """One of the choices that are compared.

    Attributes:
        name: its name.
        overrides: what it changes in the configs.
        value: its place on the axis, if it has one.
    """

    name: str
    overrides: dict[str, Any]
    value: float | None = None

    @property
    def folder(self) -> str:
        """Its name as that of a folder."""
        return re.sub(r"[^\w.+=-]+", "_", self.name).strip("._")


def training_sweep(
    bundle: Bundle,
    dataset_dir: str | Path,
    val_dataset_dir: str | Path,
    arms: Sequence[Arm],
    output_dir: str | Path,
    settings: Sequence[Setting] = (),
    seeds: Sequence[int] = (0,),
    num_images: int | None = None,
    label: str | None = None,
) -> list[dict[str, Any]]:
    """Train each arm with each seed, and score the results; what is already there is not done again.

    Trainings are those of the bundle, so the weights are the ones that were best on the validation images, on which
    they are then scored. The scores are therefore optimistic, and comparable with one another only.

    Writes for each training ``ARM/seed_N`` (the run's folder, with its scores), ``.log`` and ``.json``; for all
    ``training_sweep.json``, ``training_sweep.csv`` and ``training_sweep.png``.

    Args:
        bundle: the bundle; its overrides hold for all arms.
        dataset_dir: images to train on.
        val_dataset_dir: images to select on and to score.
        arms: what to compare; the first is what the others are compared with.
        output_dir: folder to write to, and to continue.
        settings: steps and generations to score; default: those of each arm's configs.
        seeds: seeds of the trainings. All networks sample with the bundle's seed.
        num_images: score only the first images.
        label: what the arms differ in, for the picture.

    Returns:
        One row for each arm and setting, in that order. Its scores are means over seeds of each image's score, with
        intervals over images; ``seeds`` has the scores of each training.

    Raises:
        KeyError: an override of an entry that the configs do not have.
        ValueError: arms that cannot be told apart, or that change what the sweep itself sets.
        DatasetError: a dataset cannot be used, or the folder holds other trainings.
        TrainingError: a network or sampler cannot be built, or a training failed; the earlier ones remain.
    """
    _check(bundle, arms, seeds, settings)
    output_dir = Path(output_dir).resolve()
    data = str(Path(dataset_dir).resolve()), str(Path(val_dataset_dir).resolve())
    monuseg_split(*data)  # fails now, not after the first process has started
    parameters = {arm.name: _parameters(bundle, arm) for arm in arms}
    runs = {
        (arm.name, seed): TrainingRun(
            bundle.with_overrides(arm.overrides), *data, seed, output_dir / arm.folder / f"seed_{seed}"
        )
        for seed in seeds
        for arm in arms
    }
    for run in runs.values():
        run.check()
    found = {}
    with tqdm(runs.items(), unit="training") as progress:
        for key, run in progress:
            progress.set_description(f"{key[0]}, seed {key[1]}")
            trained = run.train()
            scored = settings or [_own_setting(run.bundle)]
            rows = score_weights(run.bundle, data[1], {key[0]: str(run.weights)}, scored, run.folder, num_images)
            names = {"training_seconds": "seconds", "best_epoch": "best_epoch", "best_validation_dice": "best_metric"}
            extra = {"seed": key[1], **{name: trained[old] for name, old in names.items()}}
            found[key] = [{**row, **extra} for row in rows]
    rows = []
    for arm in arms:
        head = {"arm": arm.name, "value": arm.value, "overrides": arm.overrides, **parameters[arm.name]}
        rows += [{**head, **seed_mean(same)} for same in zip(*(found[arm.name, seed] for seed in seeds), strict=True)]
    protocol = {
        "overrides": bundle.overrides,
        "epochs": {arm.name: runs[arm.name, seeds[0]].epochs for arm in arms},
        "seeds": list(seeds),
        "dataset_dir": data[0],
        "val_dataset_dir": data[1],
        "images": [image["name"] for image in rows[0]["images"]],
        "device": bundle.device.type,
    }
    write_json(output_dir / "training_sweep.json", {"protocol": protocol, "rows": rows})
    write_csv(output_dir / "training_sweep.csv", flat_rows(rows))
    draw_training_sweep(output_dir / "training_sweep.png", rows, label)
    return rows


def _check(bundle: Bundle, arms: Sequence[Arm], seeds: Sequence[int], settings: Sequence[Setting]) -> None:
    changed = {name for arm in arms for name in arm.overrides} | bundle.overrides.keys()
    if changed & set(OWN):
        raise ValueError(f"{', '.join(sorted(changed & set(OWN)))}: set by the sweep, expected no override.")
    folders = [arm.folder for arm in arms]
    unclear = [arm.name for arm in arms if not arm.folder or folders.count(arm.folder) > 1]
    if unclear:
        raise ValueError(f"arms {unclear}: expected names with letters or digits that tell each from the others.")
    if not arms or not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"found {len(arms)} arms and seeds {list(seeds)}, expected some of each, and no seed twice.")
    for arm in arms:
        most = bundle.with_overrides(arm.overrides).value("num_train_timesteps")
        too_many = [setting.steps for setting in settings if setting.steps > most]
        if too_many:
            raise ValueError(f"{arm.name}: {too_many[0]} steps are asked for, expected at most its {most} timesteps.")


def _parameters(bundle: Bundle, arm: Arm) -> dict[str, int]:
    """Number of parameters of the network, and of its part that depends on the image alone."""
    own = bundle.with_overrides(arm.overrides)
    try:
        network = own.network()
        own.inferer()
    except (ImportError, RuntimeError) as error:
        cause = error.__cause__ or error
        raise TrainingError(f"{arm.name}: the network or its sampler cannot be built: {cause}") from error
    of_image = [*network.image_encoder.parameters(), *network.image_projection.parameters()]
    total = sum(parameter.numel() for parameter in network.parameters())
    return {"parameters": total, "image_parameters": sum(parameter.numel() for parameter in of_image)}


def _own_setting(bundle: Bundle) -> Setting:
    return Setting(bundle.value("num_inference_steps"), bundle.value("num_generations"))


def _parser() -> argparse.ArgumentParser:
    description = (
        "Train one network for each value of an entry of the bundle's configs and compare them on the validation\n"
        "images, on which the bundle also selects the weights: the scores are optimistic, and comparable with one\n"
        "another only. Run it again to continue."
    )
    parser = command_parser("benchmarks.training_sweep", description, EXAMPLE)
    parser.add_argument("--dataset_dir", required=True, help="images to train on")
    parser.add_argument("--val_dataset_dir", required=True, help="images to select on and to score")
    parser.add_argument("--vary", metavar="NAME", help="entry of the configs to vary, such as dice_weight")
    parser.add_argument("--values", nargs="+", type=json_value, metavar="VALUE", help="its values")
    parser.add_argument(
        "--arm",
        nargs="+",
        action="append",
        default=[],
        metavar=("NAME", "NAME=VALUE"),
        help="in place of --vary: name of a choice, and all that it changes in the configs; once for each choice",
    )
    parser.add_argument(
        "--settings",
        nargs="+",
        type=read_setting,
        default=[],
        metavar="STEPSxGENERATIONS",
        help="to score, such as 1x1 3x4; default: as the configs say",
    )
    parser.add_argument("--seeds", nargs="+", type=_seed, default=[0], help="seeds to train with; default: 0")
    parser.add_argument("--num_images", type=positive, help="score only the first images")
    parser.add_argument("--label", help="what is varied, for the picture")
    parser.add_argument("--output_dir", required=True, help="folder to write to, and to continue")
    return parser


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 0.")
    return int(text)


def _arms(options: argparse.Namespace) -> list[Arm]:
    """Read the arms from the command line."""
    if bool(options.vary) != bool(options.values) or bool(options.vary) == bool(options.arm):
        raise ValueError("expected either --vary with --values, or --arm.")
    if options.arm:
        unnamed = [words[0] for words in options.arm if "=" in words[0]]
        if unnamed:
            raise ValueError(f"--arm {unnamed[0]}: expected a name, without '=', before what the arm changes.")
        return [Arm(name, dict(map(override, words))) for name, *words in options.arm]
    numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in options.values)
    return [
        Arm(value if isinstance(value, str) else json.dumps(value), {options.vary: value}, value if numbers else None)
        for value in options.values
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command with the given words, default: those of the command line."""
    parser = _parser()
    options = parser.parse_args(arguments)
    with readable_errors(parser):
        try:
            arms, bundle = _arms(options), Bundle(overrides_of(options))
            _check(bundle, arms, options.seeds, options.settings)
        except (ValueError, argparse.ArgumentTypeError) as error:
            parser.error(str(error))
        given = {name: getattr(options, name) for name in ("dataset_dir", "val_dataset_dir", "output_dir")}
        given |= {name: getattr(options, name) for name in ("settings", "seeds", "num_images")}
        try:
            rows = training_sweep(bundle, arms=arms, label=options.label or options.vary, **given)
        except TrainingError as error:
            parser.exit(1, f"{error}\n")
    print(format_training_sweep(rows))
    print(
        f"Images: {len(rows[0]['images'])}, on which the weights were selected as well: compare the rows with one "
        "another only.\nChange: of Dice against the first arm, over the same images. "
        f"Also in {options.output_dir}."
    )


if __name__ == "__main__":
    main()
