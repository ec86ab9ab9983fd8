# SPDX-License-Identifier: Apache-2.0
"""The model ``segdiff_nuclei`` of MONAI Label's pathology app; goes into its folder ``lib/configs``."""

from __future__ import annotations

import os
from typing import Any

from lib.infers.segdiff_nuclei import SegDiffNuclei as SegDiffNucleiTask
from monailabel.interfaces.config import TaskConfig
from monailabel.interfaces.tasks.infer_v2 import InferTask


class SegDiffNuclei(TaskConfig):
    """Nuclei as polygons, by the bundle ``monuseg`` in the folder ``model`` of the app."""

    def init(self, name: str, model_dir: str, conf: dict[str, str], planner: Any, **kwargs: Any) -> None:
        """Find the bundle."""
        super().init(name, model_dir, conf, planner, **kwargs)
        self.bundle_path = os.path.join(self.model_dir, "monuseg")

    def infer(self) -> InferTask:
        """Return the task."""
        return SegDiffNucleiTask(self.bundle_path, self.conf)

    def trainer(self) -> None:
        """Return nothing: training needs masks, and QuPath sends polygons. The other app trains."""
        return
