# SPDX-License-Identifier: Apache-2.0
"""What MONAI's bundle command line lacks: refusal of misspelt options, readable errors, the next command."""

from __future__ import annotations

import ast
import difflib
import inspect
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import monai.bundle
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.bundle.utils import DEFAULT_EXP_MGMT_SETTINGS

from .. import exceptions

__all__ = ["check_command_line", "flag", "next_command"]

PROGRAM = ("monai", "bundle", "__main__.py")
# Options that belong to one run and not to what follows it.
RUN_ONLY = ("resume", "max_epochs", "val_interval", "tracking", "args_file", "meta_file", "logging_file")


def check_command_line(arguments: Sequence[str] | None = None) -> None:
    """Check that every override on the command line names something in the configs.

    ``python -m monai.bundle run`` adds an unknown name to the configs without a word, so that a misspelt option has no
    effect; and it buries what went wrong in the traceback of its config parser. Bundles of this package call this
    function first. From then on errors of this package stand again in the last line. In other programs it does nothing.

    Args:
        arguments: the command line, the program first; default: ``sys.argv``.

    Raises:
        KeyError: an override that the configs do not have; the message names it, the files, and a similar name.
    """
    options = _options(sys.argv if arguments is None else arguments)
    if options is None:
        return
    sys.excepthook = _end_with_the_cause
    files = _config_files(options)
    if not files or "args_file" in options:
        return
    config = ConfigParser.load_config_files(files)
    known = set(inspect.signature(monai.bundle.run).parameters)
    known |= set(inspect.signature(ConfigWorkflow.__init__).parameters)
    tracking: dict[str, Any] = DEFAULT_EXP_MGMT_SETTINGS.get(options.get("tracking", ""), {})
    known |= {"save_execute_config", *tracking.get("configs", {})} if tracking else set()
    for name in options.keys() - known:
        if not _exists(config, name):
            top = name.replace("::", "#").split("#")[0]
            similar = difflib.get_close_matches(top, [*config, *known], n=1)
            hint = f" Did you mean --{similar[0]}?" if similar and similar[0] != top else ""
            raise KeyError(f"Unknown override --{name}: there is no such entry in {', '.join(files)}.{hint}")


def flag(value: Any) -> Any:
    """Read a switch as a user writes it: ``true`` and ``false`` in any case become booleans, the rest stays as it is.

    From the command line both words arrive as strings, and both of them are true to Python.

    Example:
        >>> flag("false"), flag(True), flag("max-autotune")
        (False, True, 'max-autotune')
    """
    return {"true": True, "false": False}.get(str(value).lower(), value)


def next_command(
    run_id: str,
    add: Sequence[str] = (),
    drop: Sequence[str] = (),
    arguments: Sequence[str] | None = None,
    **changes: Any,
) -> str:
    """Write the command that follows the present one, with the same overrides as far as its configs have them.

    Args:
        run_id: id to run.
        add: config files to add, by name, from the folder of the first present one.
        drop: names of present config files to leave out.
        arguments: the present command line, the program first; default: ``sys.argv``.
        changes: overrides to set; None removes one.

    Returns:
        A line to type, or nothing if the present program is not MONAI's bundle command line.
    """
    options = _options(sys.argv if arguments is None else arguments)
    files = _config_files(options or {})
    if not options or not files:
        return ""
    files = [file for file in files if Path(file).name not in drop]
    folder = Path(_config_files(options)[0]).parent
    files = [str(folder / name) for name in add if name == "inference.json"] + files
    files += [str(folder / name) for name in add if name != "inference.json"]
    config = ConfigParser.load_config_files(files)
    kept = {name: value for name, value in options.items() if name not in RUN_ONLY and _exists(config, name)}
    kept |= {name: str(value) for name, value in changes.items()}
    kept = {name: value for name, value in kept.items() if changes.get(name, value) is not None}
    listed = ",".join(f"'{file}'" for file in files)
    words = [f"python -m monai.bundle run {run_id} --config_file", f'"[{listed}]"' if len(files) > 1 else files[0]]
    for name, value in kept.items():
        words += [f"--{name}", shlex.quote(value)]
    return " ".join(words)


def _options(arguments: Sequence[str]) -> dict[str, str] | None:
    """Return the options of a ``monai.bundle run``, as fire reads them, or None for any other program."""
    program, *words = arguments
    if Path(program).parts[-3:] != PROGRAM or words[:1] != ["run"]:
        return None
    found = {}
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word.startswith("-") and len(word.lstrip("-")) > 1 and not word.lstrip("-")[0].isdigit():
            name, _, value = word.lstrip("-").partition("=")
            found[name.replace("-", "_")] = value or following
    return found


def _config_files(options: dict[str, str]) -> list[str]:
    value = options.get("config_file", "")
    return [str(item) for item in ast.literal_eval(value)] if value.startswith(("[", "(")) else [value] if value else []


def _exists(config: Any, name: str) -> bool:
    """Tell whether a nested entry exists. A new last part is allowed beside ``_target_``: a default argument."""
    parts = name.replace("::", "#").split("#")
    for i, part in enumerate(parts):
        if isinstance(config, list) and part.isdigit() and int(part) < len(config):
            config = config[int(part)]
        elif isinstance(config, dict) and part in config:
            config = config[part]
        else:
            return isinstance(config, dict) and "_target_" in config and i == len(parts) - 1
    return True


def _end_with_the_cause(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """Show an uncaught error as usual, then once more what this package said of it."""
    sys.__excepthook__(kind, error, traceback)
    own = tuple(getattr(exceptions, name) for name in exceptions.__all__)
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, own):
            print(f"\n{type(cause).__name__}: {cause}", file=sys.stderr)
            return
        cause = cause.__cause__ or cause.__context__
