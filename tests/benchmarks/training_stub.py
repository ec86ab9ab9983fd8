# SPDX-License-Identifier: Apache-2.0
"""A training that is over at once."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import torch
from fire.parser import DefaultParseValue

from benchmarks.bundle import Bundle
from monai_segdiff import monuseg_split

SET_BY_THE_RUN = ("config_file", "bundle_root", "dataset_dir", "val_dataset_dir", "run_dir", "seed", "resume")


class TrainingStub:
    """Stands in for ``subprocess.run``: leaves what a run of the bundle leaves, with random weights.

    Attributes:
        calls: options of each training, values as the command line reads them.
        last_epoch: epoch of the checkpoint when the training is interrupted; None: all of them, without interruption.
        status: exit status; a training that fails does so after its first epoch.
        weights: write ``model.pt``, for which the network is built.
    """

    def __init__(self, weights: bool = True) -> None:
        self.calls: list[dict[str, Any]] = []
        self.last_epoch: int | None = None
        self.status = 0
        self.weights = weights

    def __call__(self, command: list[str], stdin: int, stdout: Any, stderr: int) -> subprocess.CompletedProcess[str]:
        assert command[1:5] == ["-m", "monai.bundle", "run", "training"]
        words = (word[2:].partition("=") for word in command[5:])
        options = {name: DefaultParseValue(value) for name, _, value in words}
        self.calls.append(options)
        stdout.write(f"training {len(self.calls)}\n" * 30)
        stdout.flush()
        run = Path(options["run_dir"])
        run.mkdir(parents=True, exist_ok=True)
        if self.last_epoch != 0:
            epoch = self.last_epoch or (1 if self.status else options["max_epochs"])
            state = {"trainer": {"epoch": epoch}, "evaluator": {"best_metric": 0.25, "best_metric_epoch": 1}}
            torch.save(state, run / "checkpoint.pt")
        if self.weights:
            self._write_weights(run, options)
        if self.last_epoch is not None:
            raise KeyboardInterrupt
        return subprocess.CompletedProcess(command, self.status)

    @staticmethod
    def _write_weights(run: Path, options: dict[str, Any]) -> None:
        monuseg_split(options["dataset_dir"], options["val_dataset_dir"], split_file=run / "split.json")
        overrides = {name: value for name, value in options.items() if name not in SET_BY_THE_RUN}
        generator = torch.Generator().manual_seed(options["seed"])
        state = {
            name: 0.1 * torch.randn(value.shape, generator=generator)
            + (0.5 if "norm" in name and "weight" in name else 0)
            for name, value in Bundle(overrides).network().state_dict().items()
        }
        torch.save(state, run / "model.pt")
