# SPDX-License-Identifier: Apache-2.0
"""MONAI Label's own ``monaibundle`` app, with training rounds that publish better weights and with active learning."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from lib.annotation_round import AnnotationRound
from lib.most_uncertain import MostUncertain
from lib.predictive_entropy import PredictiveEntropy
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.tasks.infer_v2 import InferTask
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.interfaces.tasks.train import TrainTask
from monailabel.tasks.infer.bundle import BundleInferTask

__all__ = ["SegDiffApp"]


def installed_app() -> type[MONAILabelApp]:
    """Return the app that came with MONAI Label.

    Raises:
        ImportError: this environment has none.
    """
    path = Path(sys.prefix) / "monailabel" / "sample-apps" / "monaibundle" / "main.py"
    spec = importlib.util.spec_from_file_location("monailabel_monaibundle", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ImportError(f"{path} does not exist; expected the sample apps of MONAI Label in this environment.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.MyApp


class SegDiffApp(installed_app(), MONAILabelApp):  # MONAI Label looks for its own class among the direct bases
    """Serves bundles of monai_segdiff.

    To the installed app it adds: weights that do not fit are refused instead of left random, :class:`AnnotationRound`
    as training, and for each model a scoring method of its name and a strategy ``uncertainty``.
    """

    def init_infers(self) -> dict[str, InferTask]:
        """Return the tasks of the installed app, strict about their weights."""
        infers = super().init_infers()
        for task in infers.values():
            if isinstance(task, BundleInferTask):
                task.load_strict = True
        return infers

    def init_trainers(self) -> dict[str, TrainTask]:
        """Return a training round for each bundle with a training."""
        return {name: AnnotationRound(self.models[name], self.conf) for name in super().init_trainers()}

    def init_scoring_methods(self) -> dict[str, ScoringMethod]:
        """Return the installed app's methods, and the model's own uncertainty under the model's name."""
        own = {name: PredictiveEntropy(name, self._infers[name]) for name in self.models}
        return {**super().init_scoring_methods(), **own}

    def init_strategies(self) -> dict[str, Strategy]:
        """Return the installed app's strategies, and ``uncertainty``, by the first model that is served."""
        return {**super().init_strategies(), "uncertainty": MostUncertain(next(iter(self.models)))}
