# SPDX-License-Identifier: Apache-2.0
"""Quality against the number of steps and generations, for one or more files of weights.

Run ``python -m benchmarks.few_steps --help``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from monai_segdiff import SegDiffInferer

from .bundle import Bundle
from .command import overrides_of, readable_errors
from .few_steps_plot import draw_few_steps
from .generation_scores import generation_scores, pooled_generation_scores
from .score_table import SCORE_HEADER, flat_scores, score_cells
from .study import Setting, Study
from .study_options import check_steps, study_parser, weights_of
from .table import format_table, write_csv

__all__ = ["Setting", "few_steps", "read_setting", "score_weights"]

EXAMPLE = "--dataset_dir VALIDATION --weights published=runs/a/model.pt ours=runs/b/model.pt --settings 1x1 3x1 3x4"
DESCRIPTION = """\
Score files of weights under several numbers of steps and generations. Run it again to continue.

Each image is encoded once for all settings, so that many of them cost little more than their passes through the
denoiser: --settings 1x1 2x1 3x1 5x1 10x1 25x1 50x1 100x1 follows the sampler up to all of its training steps.

Steps are kept out of the T that a network was trained with. What T itself changes (25 to 200, each trained for) is a
question for python -m benchmarks.training_sweep --vary num_train_timesteps."""


def few_steps(
    bundle: Bundle,
    dataset_dir: str | Path,
    weights: dict[str, str],
    settings: Sequence[Setting],
    output_dir: str | Path,
    num_images: int | None = None,
) -> list[dict[str, Any]]:
    """Score every file of weights under every setting; results that are already there are not computed again.

    Each image is encoded once, and sampled once for each number of steps: the generations of a setting are the first
    ones of the largest number wanted, which are the same as if they had been sampled alone. Writes ``few_steps.json``
    (all results so far, for each image), ``few_steps.csv`` and ``few_steps.png`` (the results asked for).

    Args:
        bundle: the bundle; its sampler and windows are used.
        dataset_dir: dataset to score; training images that a ``split.json`` beside any of the weights names are left
            out.
        weights: name and file of each network. Where the ``model.json`` beside one says what it predicts, that holds.
        settings: steps and generations.
        output_dir: folder to write to.
        num_images: take only the first images.

    Returns:
        One row for each file of weights and setting, in that order.

    Raises:
        CheckpointError: weights are missing, damaged, or of another network.
        DatasetError: the dataset or earlier results cannot be used.
    """
    rows = score_weights(bundle, dataset_dir, weights, settings, Path(output_dir), num_images)
    write_csv(Path(output_dir) / "few_steps.csv", _flat(rows))
    draw_few_steps(Path(output_dir) / "few_steps.png", rows)
    return rows


def score_weights(
    bundle: Bundle,
    dataset_dir: str | Path,
    weights: dict[str, str],
    settings: Sequence[Setting],
    output_dir: Path,
    num_images: int | None = None,
) -> list[dict[str, Any]]:
    """Do what :func:`few_steps` does, but write no more than ``few_steps.json``."""
    threshold = bundle.value("threshold")

    def score(sampled: np.ndarray, truth: np.ndarray, setting: Setting) -> dict[str, Any]:
        return generation_scores(sampled[: setting.generations], truth, threshold)

    study = Study(output_dir / "few_steps.json", bundle, dataset_dir, weights, num_images)
    study.run(settings, SegDiffInferer.generations, score)
    rows = []
    for arm in study.arms:
        names = {"weights": arm.name, "prediction_type": arm.bundle.value("prediction_type")}
        rows += [{**names, **one._asdict(), **pooled_generation_scores(study.results(arm, one))} for one in settings]
    return rows


def _flat(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One level of numbers for a spreadsheet."""
    names = ("weights", "prediction_type", "steps", "generations")
    return [{**{name: row[name] for name in names}, **flat_scores(row, rows[0])} for row in rows]


def _table(rows: Sequence[dict[str, Any]]) -> str:
    lines = [["weights", "predicts", "steps x gen.", *SCORE_HEADER]]
    for line in _flat(rows):
        setting = f"{line['steps']} x {line['generations']}"
        lines.append([line["weights"], line["prediction_type"], setting, *score_cells(line)])
    return format_table(lines, left=2)


def read_setting(text: str) -> Setting:
    """Read steps and generations, such as ``3x4``, from a command line."""
    steps, separator, generations = text.partition("x")
    if not (separator and steps.isdecimal() and generations.isdecimal() and int(steps) and int(generations)):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form STEPSxGENERATIONS, such as 3x4.")
    return Setting(int(steps), int(generations))


def _parser() -> argparse.ArgumentParser:
    parser = study_parser("benchmarks.few_steps", DESCRIPTION, EXAMPLE)
    parser.add_argument(
        "--settings",
        nargs="+",
        type=read_setting,
        default=[read_setting(text) for text in ("1x1", "2x1", "3x1", "5x1", "10x1", "3x4", "10x4")],
        metavar="STEPSxGENERATIONS",
        help="default: 1x1 2x1 3x1 5x1 10x1 3x4 10x4",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command with the given words, default: those of the command line."""
    parser = _parser()
    options = parser.parse_args(arguments)
    weights = weights_of(parser, options)
    with readable_errors(parser):
        bundle = Bundle(overrides_of(options))
        check_steps(parser, bundle, [setting.steps for setting in options.settings])
        rows = few_steps(bundle, options.dataset_dir, weights, options.settings, options.output_dir, options.num_images)
    print(_table(rows))
    images = len(rows[0]["images"])
    print(
        f"Images: {images}. Change: of Dice against the first row, over the same images. Also in {options.output_dir}."
    )


if __name__ == "__main__":
    main()
