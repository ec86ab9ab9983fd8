# SPDX-License-Identifier: Apache-2.0
"""One training of the bundle, in a process of its own."""

from __future__ import annotations

import fcntl
import json
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tqdm import tqdm

from monai_segdiff.exceptions import DatasetError
from monai_segdiff.handlers.strict_checkpoint_loader import read_checkpoint
from monai_segdiff.handlers.training_checkpoint import checkpoint_epoch

from .bundle import Bundle
from .table import write_json

__all__ = ["TrainingError", "TrainingRun"]

SHOWN_LINES = 20


class TrainingError(RuntimeError):
    """A training ended with an error."""


@dataclass(frozen=True)
class TrainingRun:
    """A training that is not repeated once it has finished, and goes on where it was after an interruption.

    Beside the run's folder ``FOLDER`` stand ``FOLDER.log``, what the training printed, and ``FOLDER.json``, what it was
    started with and whether it has finished.

    Args:
        bundle: the bundle; its overrides and further config files are those of the training.
        dataset_dir: images to train on.
        val_dataset_dir: images to validate on.
        seed: seed of the training.
        folder: the run's folder.

    Example:
        >>> run = TrainingRun(Bundle({"max_epochs": 2}), "TRAIN", "VALIDATION", 0, Path("out/0"))  # doctest: +SKIP
        >>> run.train()["seconds"]  # doctest: +SKIP
        21.4
    """

    bundle: Bundle
    dataset_dir: str
    val_dataset_dir: str
    seed: int
    folder: Path

    @property
    def weights(self) -> Path:
        """The averaged weights of the best validation."""
        return self.folder / "model.pt"

    @property
    def log(self) -> Path:
        """What the training printed."""
        return self.folder.with_name(f"{self.folder.name}.log")

    @property
    def record_path(self) -> Path:
        """What the training was started with, and whether it has finished."""
        return self.folder.with_name(f"{self.folder.name}.json")

    @property
    def epochs(self) -> int:
        """Number of epochs to train."""
        # The default depends on the dataset.
        return int(self.bundle.with_overrides({"dataset_dir": self.dataset_dir}).value("max_epochs"))

    def check(self) -> None:
        """Check that the folder is new or was written by the same training.

        Raises:
            DatasetError: it was not; the message names what differs.
        """
        self._record()

    def train(self) -> dict[str, Any]:
        """Train, or finish a training, unless that has been done.

        A training of the same folder that is still running, such as one left behind by a killed program, is waited for.

        Returns:
            ``seconds`` (wall clock of its processes, without what an interruption lost), ``best_epoch`` and
            ``best_metric`` of the validations during training.

        Raises:
            DatasetError: the folder belongs to another training.
            CheckpointError: the checkpoint to go on from is damaged.
            TrainingError: the training failed; the message has the end of its log.
        """
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        with self._locked_log() as log:
            record = self._record()
            if record["finished"]:
                return record
            reached, kept = self._progress()
            if kept:
                record["seconds"] += max(0.0, kept - record["started"])
            elif self.folder.exists():
                shutil.rmtree(self.folder)  # ended before its first checkpoint
            if reached < self.epochs:
                record["started"] = time.time()
                write_json(self.record_path, record)
                self._run(log, resume=kept > 0)
                record["seconds"] += time.time() - record["started"]
            best = read_checkpoint(self._checkpoint)["evaluator"]
            record |= {"best_epoch": best["best_metric_epoch"], "best_metric": best["best_metric"], "finished": True}
            write_json(self.record_path, record)
            return record

    @property
    def _checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    def _record(self) -> dict[str, Any]:
        settings: dict[str, Any] = {
            "dataset_dir": self.dataset_dir,
            "val_dataset_dir": self.val_dataset_dir,
            "seed": self.seed,
        }
        settings |= {"overrides": self.bundle.overrides, "extra_configs": self.bundle.extra_configs}
        settings = json.loads(json.dumps(settings))  # as it will be read again
        if not self.record_path.is_file():
            if self.folder.exists():
                raise DatasetError(
                    f"{self.folder}: exists, but {self.record_path.name}, the record of its training, is not beside "
                    "it; expected a new folder."
                )
            return {"settings": settings, "finished": False, "seconds": 0.0, "started": 0.0}
        try:
            record: dict[str, Any] = json.loads(self.record_path.read_text(encoding="utf-8"))
            found = {"extra_configs": [], **record["settings"]}  # which earlier versions neither had nor recorded
        except (ValueError, KeyError, TypeError) as error:
            raise DatasetError(
                f"{self.record_path}: cannot be read ({error!r}); remove it and {self.folder}."
            ) from error
        differing = [name for name in settings if found.get(name) != settings[name]]
        if differing:
            was, is_now = (
                ", ".join(f"{name}={values.get(name)!r}" for name in differing) for values in (found, settings)
            )
            raise DatasetError(
                f"{self.folder}: was trained with other settings, {was}; expected {is_now}. Give another output "
                f"folder, or remove this one and {self.record_path.name}."
            )
        return record

    def _progress(self) -> tuple[int, float]:
        """Return the number of epochs that the checkpoint has, and when it, or that of an earlier stage, was written.

        A bundle that trains in stages keeps the checkpoint of an earlier one in a folder inside of its run's.
        """
        kept = max((path.stat().st_mtime for path in self.folder.glob(f"**/{self._checkpoint.name}")), default=0.0)
        return checkpoint_epoch(self._checkpoint), kept

    @contextmanager
    def _locked_log(self) -> Iterator[IO[str]]:
        """Open the log; the training inherits its lock, so that it is held until both have ended."""
        with open(self.log, "a", encoding="utf-8") as log:
            try:
                fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                tqdm.write(f"{self.folder} is being trained by another process; waiting for it.")
                fcntl.flock(log, fcntl.LOCK_EX)
            yield log

    def _command(self, resume: bool) -> list[str]:
        own = {"bundle_root": str(self.bundle.root), "run_dir": str(self.folder), "seed": self.seed, "resume": resume}
        own |= {"dataset_dir": self.dataset_dir, "val_dataset_dir": self.val_dataset_dir}
        # The command line reads Python, and leaves out what is None.
        words = [
            f"--{name}={'$None' if value is None else repr(value)}"
            for name, value in {**self.bundle.overrides, **own}.items()
        ]
        names = ("train", *self.bundle.extra_configs)
        configs = [str(self.bundle.root / "configs" / f"{name}.json") for name in names]
        return [sys.executable, "-m", "monai.bundle", "run", "training", f"--config_file={configs}", *words]

    def _run(self, log: IO[str], resume: bool) -> None:
        command = self._command(resume)
        start = log.tell()
        print(shlex.join(command), file=log, flush=True)
        status = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT).returncode
        if status:
            with open(self.log, encoding="utf-8", errors="replace") as written:
                written.seek(start)
                last = "\n".join(written.read().splitlines()[-SHOWN_LINES:])
            raise TrainingError(f"{last}\n\n{self.log}: the training ended with status {status}, its end above.")
