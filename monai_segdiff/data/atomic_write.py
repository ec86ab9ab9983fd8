# SPDX-License-Identifier: Apache-2.0
"""Writing files that are either whole or not there."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["atomic_write"]


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path beside ``path`` to write to, and move it there once the block ends without an error.

    A process that is killed meanwhile leaves the old file as it was.

    Args:
        path: file to write; its folder is made. The name of the temporary file has the same end, suffixes included.

    Raises:
        OSError: the folder or file cannot be written; an existing file is then left as it was.

    Example:
        >>> with atomic_write("run/metrics.json") as temporary:  # doctest: +SKIP
        ...     temporary.write_text("{}")
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not tempfile: its files are readable by their owner only, and os.replace would keep that.
    temporary = path.with_name(f".{uuid.uuid4().hex}-{path.name}")
    try:
        yield temporary
        with open(temporary, "rb+") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
