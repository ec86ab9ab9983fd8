# SPDX-License-Identifier: Apache-2.0
"""How uncertain the served model is about the images that have no label yet."""

from __future__ import annotations

import logging
import os
from typing import Any

import torch
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.tasks.infer.basic_infer import BasicInferTask, CallBackTypes

__all__ = ["PredictiveEntropy"]

logger = logging.getLogger(__name__)


class PredictiveEntropy(ScoringMethod):
    """Writes the mean predictive entropy of each unlabelled image into the datastore.

    The entropy of a pixel is that of its predicted probabilities ``m``: ``-m ln m - (1 - m) ln(1 - m)`` for one channel
    and ``-sum_k m_k ln m_k`` for K classes. The score of an image is its mean over the pixels, in nats. It is kept in
    the image's info as ``<model>_entropy`` with the time of the weights, and made anew once the weights change.

    Args:
        model: name of the model.
        task: runs the model.
    """

    def __init__(self, model: str, task: BasicInferTask) -> None:
        super().__init__(f"Mean predictive entropy of {model}")
        self.model = model
        self.task = task

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, int]:
        """Score the images.

        Args:
            request: may hold ``max_samples``, the largest number of images to score, and settings of the model.
            datastore: of the images.

        Returns:
            How many images there were (``total``), how many of them were scored (``executed``), had their score
            (``skipped``), or could not be read (``failed``; the log says why).
        """
        weights_time = os.stat(self.task.get_path()).st_mtime
        images = datastore.get_unlabeled_images()
        known = [
            image for image in images if datastore.get_image_info(image).get(f"{self.model}_entropy_of") == weights_time
        ]
        wanted = sorted(set(images) - set(known))[: request.get("max_samples") or None]
        settings = {name: value for name, value in request.items() if name not in ("method", "max_samples")}
        failed = 0
        for image in wanted:
            try:
                entropy = self.score({**settings, "image": datastore.get_image_uri(image)})
            except Exception:  # one bad file among the images must not leave all others without a score
                logger.exception("%s cannot be scored.", image)
                failed += 1
                continue
            datastore.update_image_info(
                image, {f"{self.model}_entropy": entropy, f"{self.model}_entropy_of": weights_time}
            )
        return {"total": len(images), "executed": len(wanted) - failed, "skipped": len(known), "failed": failed}

    def score(self, request: dict[str, Any]) -> float:
        """Return the score of one image.

        Args:
            request: as to the task: ``image`` is the file.
        """
        found = []

        def keep(data: dict[str, Any]) -> dict[str, Any]:
            found.append(data[self.task.output_label_key])
            return data

        self.task({**request, "skip_writer": True}, callbacks={CallBackTypes.INFERER: keep})
        probability = torch.as_tensor(found[0]).double()
        entropy = torch.special.entr(probability).sum(dim=0)
        if len(probability) == 1:
            entropy = entropy + torch.special.entr(1 - probability[0])
        return float(entropy.mean())
