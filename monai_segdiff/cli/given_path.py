# SPDX-License-Identifier: Apache-2.0
"""Path that a user has given to a command."""

from __future__ import annotations

from pathlib import Path

import typer

__all__ = ["given_path"]


def given_path(text: str) -> Path:
    """Make a path, but not of nothing, which ``Path`` takes for the current folder.

    Args:
        text: what stands on the command line, or in the environment variable of an option.

    Raises:
        typer.BadParameter: the text is empty, as a variable of the shell is that was never set. The command then ends
            with status 2.

    Example:
        >>> given_path("results").name
        'results'
    """
    if not text:
        raise typer.BadParameter("is empty (a variable that is not set?); expected a path, or . for this folder.")
    return Path(text)
