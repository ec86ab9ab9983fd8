# SPDX-License-Identifier: Apache-2.0
"""Training batches in which the label is diffused and the image is the condition."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from monai.data import MetaTensor
from monai.engines import DiffusionPrepareBatch
from monai.utils import CommonKeys

from ..exceptions import AnnotationError
from ..networks.schedulers import RespacedScheduler
from ..networks.schedulers.respaced import PredictionType

__all__ = ["SegDiffPrepareBatch"]


class SegDiffPrepareBatch(DiffusionPrepareBatch):
    """Prepare batches for MONAI's ``SupervisedTrainer`` and ``DiffusionInferer``.

    The label becomes the clean mask x0 = 2 * label - 1, one channel for each foreground class; timesteps are uniform
    over 0..T-1; the target follows the scheduler's ``prediction_type``. The image is passed on as ``condition``.

    Args:
        scheduler: the scheduler the inferer trains with.
        mask_channels: number of foreground classes K. Labels hold 0 (background) to K in one channel.

    Example:
        >>> prepare_batch = SegDiffPrepareBatch(RespacedDDPMScheduler())  # doctest: +SKIP
        >>> SupervisedTrainer(..., prepare_batch=prepare_batch, inferer=DiffusionInferer(scheduler))  # doctest: +SKIP
    """

    def __init__(self, scheduler: RespacedScheduler, mask_channels: int = 1) -> None:
        super().__init__(num_train_timesteps=scheduler.num_train_timesteps)
        self.scheduler = scheduler
        self.mask_channels = mask_channels

    def get_target(self, images: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Return what the network should predict for the clean masks ``images``."""
        if self.scheduler.prediction_type == PredictionType.EPSILON:
            return noise
        if self.scheduler.prediction_type == PredictionType.SAMPLE:
            return images
        return self.scheduler.get_velocity(images, noise, timesteps)

    def __call__(
        self,
        batchdata: Mapping[str, torch.Tensor],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor, tuple, dict]:
        """Diffuse a batch.

        Args:
            batchdata: ``image`` ``[B, C, *spatial]`` and ``label`` ``[B, 1, *spatial]``.
            device: where to put the tensors.
            non_blocking: copy without waiting.
            kwargs: further arguments of ``Tensor.to``.

        Returns:
            Clean masks, targets, (), and the inferer's ``noise``, ``timesteps`` and ``condition``; plain tensors, since
            meta data would break compiled graphs and slow every operation down.

        Raises:
            AnnotationError: a label outside 0..K; the message names the file.
        """
        label = self._one_channel_per_class(batchdata[CommonKeys.LABEL])
        image = _plain(batchdata[CommonKeys.IMAGE])
        images, target, args, infer_kwargs = super().__call__(
            {CommonKeys.IMAGE: 2 * label - 1, CommonKeys.LABEL: label}, device, non_blocking, **kwargs
        )
        infer_kwargs["condition"] = image.to(device, non_blocking=non_blocking, **kwargs)
        return images, target, args, infer_kwargs

    def _one_channel_per_class(self, label: torch.Tensor) -> torch.Tensor:
        """Turn class indices ``[B, 1, *spatial]`` into float foreground masks ``[B, K, *spatial]``."""
        plain = _plain(label)
        classes = torch.arange(1, self.mask_channels + 1, device=plain.device).reshape(1, -1, *[1] * (plain.ndim - 2))
        masks = plain == classes
        if plain.shape[1] != 1 or not (masks.any(1, keepdim=True) | (plain == 0)).all():
            files = label.meta.get("filename_or_obj") if isinstance(label, MetaTensor) else None
            raise AnnotationError(
                f"Labels must have one channel with values 0..{self.mask_channels}; found {plain.shape[1]} channel(s) "
                f"with values {plain.unique()[:10].tolist()} in {files or 'the batch'}."
            )
        return masks.float()


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.as_tensor() if isinstance(tensor, MetaTensor) else tensor
