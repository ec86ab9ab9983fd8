# SPDX-License-Identifier: Apache-2.0
"""Training batches for a discrete diffusion of labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from monai.data import MetaTensor
from monai.engines import PrepareBatch
from monai.utils import CommonKeys, StrEnum, look_up_option
from torch import nn

from ..networks.nets import MaskPriorUNet
from ..networks.nets.mask_prior_unet import check_scheduler
from ..networks.schedulers import CategoricalScheduler
from .checked_labels import checked_labels

__all__ = ["MaskPriorPrepareBatch"]


class NoiseOnLabels(StrEnum):
    """What is noised in training."""

    FIRST_PREDICTION = "first_prediction"
    GROUND_TRUTH = "ground_truth"
    BASE_PREDICTION = "base_prediction"


class MaskPriorPrepareBatch(PrepareBatch):
    """Prepare batches for MONAI's ``SupervisedTrainer`` and ``SimpleInferer`` (section 3.3 of arXiv 2306.01721).

    For each sample a noise level t is drawn from 0..T-1. In sampling the network sees re-noised predictions, never the
    re-noised truth, and so it is trained: labels to noise are the network's own first prediction, made without gradient
    from pure noise at T-1. At T-1 itself the input is pure noise, as in sampling.

    Args:
        scheduler: the diffusion of the labels.
        network: a :class:`~monai_segdiff.MaskPriorUNet`, plain or wrapped for distributed training.
        noise_on: ``"first_prediction"`` (published); for comparison the ``"ground_truth"``, or the
            ``"base_prediction"``, the segmentor's own result.
        single_step: train for the first step alone: every sample starts from pure noise at T-1. It is the published
            first stage, without which a first prediction means nothing; see :class:`~monai_segdiff.SingleStepStage`.
        amp: make the first prediction in bfloat16.

    Raises:
        ValueError: the embedding of the network has too few rows for the scheduler's states.

    Example:
        >>> prepare_batch = MaskPriorPrepareBatch(CategoricalScheduler(3), network)  # doctest: +SKIP
        >>> SupervisedTrainer(
        ...     ..., prepare_batch=prepare_batch, inferer=SimpleInferer(), loss_function=MaskPriorLoss()
        ... )  # doctest: +SKIP
    """

    def __init__(
        self,
        scheduler: CategoricalScheduler,
        network: nn.Module,
        noise_on: str = NoiseOnLabels.FIRST_PREDICTION,
        single_step: bool = False,
        amp: bool = False,
    ) -> None:
        self.scheduler = scheduler
        # Without a wrapper for distributed training: it would wait for a backward pass that does not come.
        self.network = cast(MaskPriorUNet, getattr(network, "module", network))
        self.noise_on = look_up_option(noise_on, NoiseOnLabels)
        self.single_step = single_step
        self.amp = amp
        check_scheduler(scheduler, self.network)

    def __call__(
        self,
        batchdata: Mapping[str, torch.Tensor],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor, tuple, dict]:
        """Diffuse the labels of a batch.

        Args:
            batchdata: ``image`` ``[B, C, *spatial]`` and ``label`` ``[B, 1, *spatial]``.
            device: where to put the tensors.
            non_blocking: copy without waiting.
            kwargs: further arguments of ``Tensor.to``.

        Returns:
            Noisy labels, true labels at full size, (), and the network's ``timesteps`` and ``observation``; plain
            tensors.

        Raises:
            AnnotationError: a label outside 0..K-1; the message names the file.
        """
        labels = checked_labels(batchdata[CommonKeys.LABEL], self.network.num_classes)
        labels = labels.to(device, non_blocking=non_blocking)
        image = batchdata[CommonKeys.IMAGE]
        image = image.as_tensor() if isinstance(image, MetaTensor) else image
        image = image.to(device, non_blocking=non_blocking, **kwargs)
        last = self.scheduler.num_train_timesteps - 1
        with torch.autocast(image.device.type, dtype=torch.bfloat16, enabled=self.amp):
            observation = self.network.observe(image)
        clean = self.network.to_latent(labels)
        timesteps = torch.full((len(clean),), last, device=clean.device)
        if not self.single_step:
            timesteps = torch.randint_like(timesteps, last + 1)
            if self.noise_on == NoiseOnLabels.FIRST_PREDICTION:
                clean = self._first_prediction(observation, clean)
            elif self.noise_on == NoiseOnLabels.BASE_PREDICTION:
                base = self.network.observed_logits(observation).argmax(dim=1, keepdim=True)
                clean = self.network.to_latent(base)
        noise = _noise_for(clean)
        noisy = self.scheduler.add_noise(clean, noise, timesteps)
        # Nothing at all is kept there, as in sampling, whatever the schedule's last alpha-bar is.
        from_noise = (timesteps == last).reshape(-1, *[1] * (clean.ndim - 1))
        noisy = torch.where(from_noise, self.scheduler.pure_noise(noise), noisy)
        return noisy, labels, (), {"timesteps": timesteps, "observation": observation}

    @torch.no_grad()
    def _first_prediction(self, observation: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """Return the labels that the network sees in pure noise."""
        last = torch.tensor([self.scheduler.num_train_timesteps - 1], device=like.device)
        with torch.autocast(like.device.type, dtype=torch.bfloat16, enabled=self.amp):
            logits = self.network(self.scheduler.pure_noise(_noise_for(like)), last, observation=observation)
        return logits.argmax(dim=1, keepdim=True)


def _noise_for(labels: torch.Tensor) -> torch.Tensor:
    """Return uniform noise ``[B, 2, *spatial]`` for labels ``[B, 1, *spatial]``."""
    return torch.rand(len(labels), 2, *labels.shape[2:], device=labels.device)
