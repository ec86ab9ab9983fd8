# SPDX-License-Identifier: Apache-2.0
"""The words on the command line of a study."""

from __future__ import annotations

import argparse
from collections.abc import Iterable

from .bundle import Bundle
from .command import command_parser, positive

__all__ = ["check_steps", "study_parser", "weights_of"]


def study_parser(module: str, description: str, example: str) -> argparse.ArgumentParser:
    """Return a parser with the options of all studies; arguments as :func:`~benchmarks.command.command_parser`."""
    parser = command_parser(module, description, example)
    parser.add_argument("--dataset_dir", required=True, help="dataset to score")
    parser.add_argument(
        "--weights",
        required=True,
        nargs="+",
        type=_named_weights,
        metavar="NAME=PATH",
        help="names and files of networks; images that a split.json beside one names for training are left out",
    )
    parser.add_argument("--num_images", type=positive, help="only the first images")
    parser.add_argument("--output_dir", default="benchmark_results", help="folder to write to, and to continue")
    return parser


def weights_of(parser: argparse.ArgumentParser, options: argparse.Namespace) -> dict[str, str]:
    """Return the files of weights by name; end the program if a name is given twice."""
    weights = dict(options.weights)
    if len(weights) < len(options.weights):
        parser.error("--weights: the same name is given twice.")
    return weights


def check_steps(parser: argparse.ArgumentParser, bundle: Bundle, steps: Iterable[int]) -> None:
    """End the program if more steps are wanted than the bundle trains with."""
    most = bundle.value("num_train_timesteps")
    if (found := max(steps)) > most:
        parser.error(f"{found} steps are asked for, expected at most the {most} of the bundle's num_train_timesteps.")


def _named_weights(text: str) -> tuple[str, str]:
    name, separator, path = text.partition("=")
    if not (name and separator and path):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=PATH, such as ours=runs/monuseg/model.pt.")
    return name, path
