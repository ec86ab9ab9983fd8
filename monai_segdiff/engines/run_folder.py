# SPDX-License-Identifier: Apache-2.0
"""The folder that a training run writes to."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Sequence
from pathlib import Path

import ignite.distributed as idist

from ..exceptions import CheckpointError, DatasetError

__all__ = ["prepare_run_folder"]

logger = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.pt"
MARKS = (CHECKPOINT, "model.pt", "history.json", "split.json")


def prepare_run_folder(run_dir: str | Path, resume: bool = False, stages: Sequence[str] = ()) -> Path:
    """Make the folder of a run, without ever losing an earlier one.

    A new run moves an earlier one aside, to ``<name>-<time it was last changed>``.

    Args:
        run_dir: the folder: new, empty, or that of an earlier run.
        resume: the run goes on from a checkpoint in the folder, which must be there.
        stages: subfolders in which earlier stages of the same run keep their checkpoints.

    Returns:
        The folder.

    Raises:
        CheckpointError: nothing to resume.
        DatasetError: the folder holds something else than a run.
    """
    folder = Path(run_dir).resolve()
    if resume:
        if not any((folder / stage / CHECKPOINT).is_file() for stage in (".", *stages)):
            raise CheckpointError(f"Nothing to resume: {folder / CHECKPOINT} does not exist. Start without --resume.")
    elif idist.get_rank() == 0:
        content = [item.name for item in folder.iterdir()] if folder.is_dir() else []
        if content and not set(content) & {*MARKS, *stages}:
            raise DatasetError(f"{folder}: holds {content[:3]} but no earlier run; expected a new or empty run folder.")
        if content:
            stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(folder.stat().st_mtime))
            aside = folder.with_name(f"{folder.name}-{stamp}")
            for i in itertools.count(2):  # two runs may have been changed last in the same second
                if not aside.exists():
                    break
                aside = folder.with_name(f"{folder.name}-{stamp}-{i}")
            folder.rename(aside)
            logger.warning("%s held an earlier run, which is now in %s.", folder, aside)
        folder.mkdir(parents=True, exist_ok=True)
    idist.barrier()
    return folder
