# SPDX-License-Identifier: Apache-2.0
"""The folder that a training run writes to."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import ignite.distributed as idist

from ..exceptions import CheckpointError

__all__ = ["prepare_run_folder"]

logger = logging.getLogger(__name__)


def prepare_run_folder(run_dir: str | Path, resume: bool = False, checkpoint: str = "checkpoint.pt") -> Path:
    """Make the folder of a run, without ever losing an earlier one.

    A new run in a folder that is not empty moves the earlier run aside, to ``<name>-<time it was last changed>``.

    Args:
        run_dir: the folder.
        resume: the run goes on from the checkpoint in the folder, which must be there.
        checkpoint: name of the checkpoint file.

    Returns:
        The folder.

    Raises:
        CheckpointError: nothing to resume.
    """
    folder = Path(run_dir)
    saved = folder / checkpoint
    if resume and not saved.is_file():
        raise CheckpointError(f"Nothing to resume: {saved} does not exist. Start the run without --resume.")
    if idist.get_rank() == 0:
        if folder.is_dir() and any(folder.iterdir()) and not resume:
            stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(folder.stat().st_mtime))
            aside = folder.with_name(f"{folder.name}-{stamp}")
            while aside.exists():  # two runs that were last changed in the same second
                aside = aside.with_name(aside.name + "+")
            folder.rename(aside)
            logger.warning("%s held an earlier run, which is now in %s.", folder, aside)
        folder.mkdir(parents=True, exist_ok=True)
    idist.barrier()
    return folder
