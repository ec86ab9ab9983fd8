# SPDX-License-Identifier: Apache-2.0
"""End of a command that was used in a wrong way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from ..exceptions import CheckpointError

__all__ = ["wrong_usage"]


@contextmanager
def wrong_usage() -> Iterator[None]:
    """Turn what the block raises about its input into one line on stderr and exit status 2.

    Raises:
        typer.Exit: with status 2, in place of a ``ValueError`` (which most errors of this package are), a
            ``CheckpointError``, an ``ImportError`` of an extra or an ``OSError``.

    Example:
        >>> with wrong_usage():  # doctest: +SKIP
        ...     predictor = SegDiffPredictor.from_bundle("nowhere")
    """
    try:
        yield
    except (ValueError, CheckpointError, ImportError, OSError) as error:
        line, _, _ = str(error).partition("\n")
        typer.echo(f"Error: {line}", err=True)
        raise typer.Exit(2) from error
