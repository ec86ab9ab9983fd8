# SPDX-License-Identifier: Apache-2.0
"""What the commands of this folder share: options, and errors that a user can read."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from monai_segdiff import exceptions

__all__ = ["command_parser", "json_value", "override", "overrides_of", "positive", "readable_errors"]


def command_parser(module: str, description: str, example: str) -> argparse.ArgumentParser:
    """Return a parser with the options of all commands.

    Args:
        module: name of the module that is run.
        description: what the command does.
        example: arguments that do something useful.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=description,
        epilog=f"example:\n  python -m {module} {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--device", help="cpu or cuda; default: as the bundle decides")
    parser.add_argument(
        "--override",
        action="extend",
        nargs="+",
        default=[],
        type=override,
        metavar="NAME=VALUE",
        help="values for entries of the bundle's configs, such as window_size=128",
    )
    return parser


def overrides_of(options: argparse.Namespace) -> dict[str, Any]:
    """Return the overrides that the options of :func:`command_parser` ask for."""
    device = {} if options.device is None else {"device": options.device}
    return {**dict(options.override), **device}


def json_value(text: str) -> Any:
    """Read a JSON value from a command line; a plain string needs no quotes."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def positive(text: str) -> int:
    """Read a number of things from a command line."""
    if not (text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1.")
    return int(text)


@contextmanager
def readable_errors(parser: argparse.ArgumentParser) -> Iterator[None]:
    """End the program with a message, not a traceback, for errors about what a user gave."""
    own = tuple(getattr(exceptions, name) for name in exceptions.__all__)
    try:
        yield
    except own as error:
        parser.exit(1, f"{type(error).__name__}: {error}\n")
    except KeyError as error:
        if not str(error.args[0]).startswith("Unknown override"):
            raise
        parser.exit(1, f"{error.args[0]}\n")


def override(text: str) -> tuple[str, Any]:
    """Read an entry of the bundle's configs and its value from a command line."""
    name, separator, value = text.partition("=")
    if not name or not separator:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=VALUE.")
    return name, json_value(value)
