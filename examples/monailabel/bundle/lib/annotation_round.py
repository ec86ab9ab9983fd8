# SPDX-License-Identifier: Apache-2.0
"""Training on what the annotators have labelled."""

from __future__ import annotations

import copy
import logging
import threading
import time
from pathlib import Path
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.tasks.train.bundle import BundleTrainTask

from lib.hold_back import hold_back
from monai_segdiff import publish_weights
from monai_segdiff.data.monuseg import stem
from monai_segdiff.handlers.strict_checkpoint_loader import read_checkpoint

__all__ = ["AnnotationRound"]

logger = logging.getLogger(__name__)

# What the annotation round decides itself.
FIXED_OPTIONS = ("pretrained", "model_filename", "run_id")


class AnnotationRound(BundleTrainTask):
    """Trains the served weights further on the final labels; serves the result if it is better.

    Part of the labelled images, none that the served weights were trained on, validate: the served weights before the
    first epoch, then the new ones. Only if an epoch has a higher Dice than the served weights do the weights of the
    best one replace them, by :func:`monai_segdiff.publish_weights`, which keeps the former. The run is in
    ``runs/annotation-<time>`` of the bundle.

    Args:
        path: folder of the bundle.
        conf: settings of the app.
    """

    def __init__(self, path: str, conf: dict[str, str]) -> None:
        super().__init__(path, conf)
        self._one_at_a_time = threading.Lock()
        self._parts: dict[str, list[dict[str, str]]] = {}
        self._run_dir = Path(path)

    def config(self) -> dict[str, Any]:
        """Return the options that a client shows."""
        return {name: value for name, value in super().config().items() if name not in FIXED_OPTIONS}

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Run one round.

        Args:
            request: ``max_epochs`` (default 50), ``val_split`` (share that validates, default 0.2), ``device``.
            datastore: images and labels.

        Returns:
            ``published``; ``best_epoch``, 0 if the served weights were the best; ``val_mean_dice`` of the best; the
            ``run_dir``; and ``former_weights``, where the replaced weights are now.

        Raises:
            CheckpointError: the settings of this round differ from those of the served weights.
            DatasetError: fewer than two different labelled images, or the served weights were trained on all of them.
            ValueError: a ``val_split`` that is not between 0 and 1.
        """
        request = {name: value for name, value in request.items() if name not in FIXED_OPTIONS}
        with self._one_at_a_time:
            super().__call__(request, datastore)
            best = read_checkpoint(self._run_dir / "checkpoint.pt")["evaluator"]
            result = {
                "published": best["best_metric_epoch"] > 0,
                "best_epoch": best["best_metric_epoch"],
                "val_mean_dice": best["best_metric"],
                "run_dir": str(self._run_dir),
            }
            if result["published"]:
                former = publish_weights(self._run_dir / "model.pt", self._served, self._parts)
                result["former_weights"] = str(former)
        logger.info("Annotation round: %s", result)
        return result

    @property
    def _served(self) -> Path:
        return Path(self.bundle_path) / "models" / self.const.model_pytorch()

    def _partition_datalist(
        self, datalist: list[dict[str, str]], request: dict[str, Any], shuffle: bool = False
    ) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
        """Use :func:`hold_back`: MONAI Label's own rule may hold back no image, or one that was trained on."""
        entries = [{"name": stem(Path(entry["image"])), **entry} for entry in datalist]
        self._parts = hold_back(entries, request.get("val_split", 0.2), self._served.with_name("split.json"))
        return self._parts["training"], self._parts["validation"]

    def _update_overrides(self, overrides: dict[str, Any]) -> dict[str, Any]:
        """Add what MONAI Label does not know of this project's trainings."""
        self._run_dir = Path(self.bundle_path) / "runs" / time.strftime("annotation-%Y%m%d-%H%M%S")
        # Both copies of the weights are loaded by the bundle's own handlers, which the initial weights enable.
        handlers = [copy.deepcopy(h) for h in overrides["train#handlers"] if h["_target_"] != "CheckpointLoader"]
        first = next(handler for handler in handlers if handler["_target_"] == "ValidationHandler")
        first["exec_at_start"] = True
        overrides |= {
            "train#handlers": handlers,
            "initial_weights": str(self._served),
            "run_dir": str(self._run_dir),
            "max_epochs": overrides["train#trainer#max_epochs"],
            "on_sample": False,
            "initialize": [
                "$@start_processes",
                "$monai.utils.set_determinism(seed=@seed + @rank)",
                "$monai_segdiff.prepare_run_folder(@run_dir)",
            ],
        }
        if "single_step_epochs" in self.bundle_config:  # the first stage of a mask prior, which the weights have behind
            overrides["single_step_epochs"] = 0
        return overrides
