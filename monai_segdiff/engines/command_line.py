# SPDX-License-Identifier: Apache-2.0
"""Refusal of misspelt overrides on MONAI's bundle command line."""

from __future__ import annotations

import ast
import difflib
import inspect
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import monai.bundle
from monai.bundle import ConfigParser, ConfigWorkflow

__all__ = ["check_command_line"]


def check_command_line(arguments: Sequence[str] | None = None) -> None:
    """Check that every override on the command line names something in the configs.

    ``python -m monai.bundle run`` adds an unknown name to the configs without a word, so that a misspelt option has no
    effect. Bundles of this package call this function first. It does nothing in other programs.

    Args:
        arguments: the command line, the program first; default: ``sys.argv``.

    Raises:
        KeyError: an override that the configs do not have; the message names it, the files, and a similar name.
    """
    program, *words = sys.argv if arguments is None else arguments
    if Path(program).parts[-3:] != ("monai", "bundle", "__main__.py") or words[:1] != ["run"]:
        return
    options = dict(_options(words))
    if "config_file" not in options or "args_file" in options:
        return
    files = _as_list(options["config_file"])
    config = ConfigParser.load_config_files(files)
    own = {*inspect.signature(monai.bundle.run).parameters, *inspect.signature(ConfigWorkflow).parameters}
    for name in options.keys() - own:
        parts = name.replace("::", "#").split("#")
        if not _exists(config, parts):
            similar = difflib.get_close_matches(parts[0], [*config, *own], n=1)
            hint = f" Did you mean --{similar[0]}?" if similar and similar[0] != parts[0] else ""
            raise KeyError(f"Unknown override --{name}: there is no such entry in {', '.join(files)}.{hint}")


def _options(words: Sequence[str]) -> list[tuple[str, str]]:
    """Return names and values of the options, written as ``--name value`` or ``--name=value``."""
    found = []
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word.startswith("--"):
            name, _, value = word[2:].partition("=")
            found.append((name, value or following))
    return found


def _as_list(value: str) -> list[str]:
    if not value.startswith(("[", "(")):
        return [value]
    return [str(item) for item in ast.literal_eval(value)]


def _exists(config: Any, parts: Sequence[str]) -> bool:
    """Tell whether a nested entry exists. A new last part is allowed beside ``_target_``: a default argument."""
    for i, part in enumerate(parts):
        if isinstance(config, list) and part.isdigit() and int(part) < len(config):
            config = config[int(part)]
        elif isinstance(config, dict) and part in config:
            config = config[part]
        else:
            return isinstance(config, dict) and "_target_" in config and i == len(parts) - 1
    return True
