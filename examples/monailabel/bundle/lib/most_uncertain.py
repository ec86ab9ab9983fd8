# SPDX-License-Identifier: Apache-2.0
"""Choice of the next image to label."""

from __future__ import annotations

from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.strategy import Strategy

__all__ = ["MostUncertain"]


class MostUncertain(Strategy):
    """Gives the unlabelled image with the largest score of :class:`~lib.predictive_entropy.PredictiveEntropy`.

    Images without a score come last, by their names.

    Args:
        model: whose scores to use.
    """

    def __init__(self, model: str) -> None:
        super().__init__(f"The unlabelled image of which {model} is most uncertain")
        self.key = f"{model}_entropy"

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        """Return ``{"id": image}``, or None if every image has its label."""
        images = datastore.get_unlabeled_images(request.get("label_tag"), request.get("labels"))
        scores = {image: datastore.get_image_info(image).get(self.key, -1.0) for image in sorted(images)}
        return {"id": max(scores, key=scores.__getitem__)} if scores else None
