# SPDX-License-Identifier: Apache-2.0
"""Training batches in which the label is diffused and the image is the condition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from monai.data import MetaTensor
from monai.engines import DiffusionPrepareBatch
from monai.utils import CommonKeys, StrEnum, look_up_option
from torch import nn

from ..networks.schedulers import RespacedScheduler
from ..networks.schedulers.respaced import PredictionType
from .checked_labels import checked_labels

__all__ = ["SegDiffPrepareBatch"]


class NoiseOn(StrEnum):
    """What is noised in training."""

    TRUTH = "truth"
    PREDICTION = "prediction"
    MIXTURE = "mixture"


class SegDiffPrepareBatch(DiffusionPrepareBatch):
    """Prepare batches for MONAI's ``SupervisedTrainer`` and ``DiffusionInferer``.

    The label becomes the clean mask x0 = 2 * label - 1, one channel for each foreground class; timesteps are drawn from
    0..T-1; the target follows the scheduler's ``prediction_type``. The image is passed on as ``condition``.

    SegDiff noises the true mask. In sampling, however, the network sees its own guesses noised, never the truth, and so
    every further step may lose what the first one had. ``noise_on="prediction"`` trains for what sampling shows: x_t is
    made from the network's own first prediction (from pure noise at T - 1, without gradient, clamped to [-1, 1]), and
    the target remains the truth. This is the remedy of DDPS (arXiv 2306.01721, section 3.3), carried over.

    Args:
        scheduler: the scheduler the inferer trains with.
        mask_channels: number of foreground classes K. Labels hold 0 (background) to K in one channel.
        noise_on: ``"truth"`` (published), ``"prediction"`` or ``"mixture"``: for each sample one of the two by chance.
        network: makes the first prediction; needed unless ``noise_on`` is ``"truth"``.
        prediction_share: share of the samples that are noised on the prediction in a mixture.
        timestep_weights: ``"uniform"`` (published), ``"min_snr"`` (arXiv 2303.09556, gamma 5) or T numbers: how often
            each timestep is drawn. In the mean over iterations this is a weighting of the loss.
        amp: make the first prediction in bfloat16.

    Raises:
        ValueError: a network is missing, or a number is out of range.

    Example:
        >>> prepare_batch = SegDiffPrepareBatch(RespacedDDPMScheduler())  # doctest: +SKIP
        >>> SupervisedTrainer(..., prepare_batch=prepare_batch, inferer=DiffusionInferer(scheduler))  # doctest: +SKIP
    """

    def __init__(
        self,
        scheduler: RespacedScheduler,
        mask_channels: int = 1,
        noise_on: str = NoiseOn.TRUTH,
        network: nn.Module | None = None,
        prediction_share: float = 0.5,
        timestep_weights: str | Sequence[float] = "uniform",
        amp: bool = False,
    ) -> None:
        super().__init__(num_train_timesteps=scheduler.num_train_timesteps)
        self.scheduler = scheduler
        self.mask_channels = mask_channels
        self.noise_on = look_up_option(noise_on, NoiseOn)
        if self.noise_on != NoiseOn.TRUTH and network is None:
            raise ValueError(f"noise_on={noise_on!r} needs the network that makes the first prediction.")
        if not 0.0 <= prediction_share <= 1.0:
            raise ValueError(f"prediction_share must lie in [0, 1], found {prediction_share}.")
        self.network = network
        self.prediction_share = {NoiseOn.TRUTH: 0.0, NoiseOn.PREDICTION: 1.0}.get(self.noise_on, prediction_share)
        self.timestep_weights = timestep_weights_of(scheduler, timestep_weights)
        self.amp = amp

    def get_timesteps(self, images: torch.Tensor) -> torch.Tensor:
        """Draw a timestep for each sample."""
        drawn = torch.multinomial(self.timestep_weights, len(images), replacement=True)
        return drawn.to(images.device)

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
            Masks to noise (the true ones, or predictions), targets, (), and the inferer's ``noise``, ``timesteps`` and
            ``condition``; plain tensors, since meta data would break compiled graphs and slow every operation down.

        Raises:
            AnnotationError: a label outside 0..K; the message names the file.
        """
        label = self._one_channel_per_class(checked_labels(batchdata[CommonKeys.LABEL], self.mask_channels + 1))
        image = _plain(batchdata[CommonKeys.IMAGE]).to(device, non_blocking=non_blocking, **kwargs)
        truth = (2 * label - 1).to(device, non_blocking=non_blocking, **kwargs)
        noise, timesteps = self.get_noise(truth), self.get_timesteps(truth)
        masks, implied_noise = truth, noise
        if self.prediction_share > 0:
            chosen = torch.rand(len(truth), *[1] * (truth.ndim - 1), device=truth.device) < self.prediction_share
            masks = torch.where(chosen, self._first_prediction(image, truth), truth)
            # The noise that would lead from the truth to the same x_t: eps + sqrt(ab_t / (1 - ab_t)) (masks - truth).
            alpha_bar = self.scheduler.alphas_cumprod.to(truth.device)[timesteps].reshape(chosen.shape)
            implied_noise = noise + (alpha_bar / (1 - alpha_bar)).sqrt().to(truth.dtype) * (masks - truth)
        target = self.get_target(truth, implied_noise, timesteps)
        return masks, target, (), {"noise": noise, "timesteps": timesteps, "condition": image}

    @torch.no_grad()
    def _first_prediction(self, image: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """Return the clean mask that the network sees in pure noise, in [-1, 1]."""
        # Without a wrapper for distributed training: it would wait for a backward pass that does not come.
        network = cast(nn.Module, getattr(self.network, "module", self.network))
        pure_noise, last = torch.randn_like(like), self.num_train_timesteps - 1
        with torch.autocast(like.device.type, dtype=torch.bfloat16, enabled=self.amp):
            output = network(x=pure_noise, timesteps=torch.tensor([last], device=like.device), context=image)
        return self.scheduler.predict_original_sample(output.float(), last, pure_noise).clamp(-1, 1)

    def _one_channel_per_class(self, labels: torch.Tensor) -> torch.Tensor:
        """Turn class indices ``[B, 1, *spatial]`` into float foreground masks ``[B, K, *spatial]``."""
        classes = torch.arange(1, self.mask_channels + 1, device=labels.device)
        return (labels == classes.reshape(1, -1, *[1] * (labels.ndim - 2))).float()


def timestep_weights_of(scheduler: RespacedScheduler, weights: str | Sequence[float]) -> torch.Tensor:
    """Return how often each of the T timesteps is drawn, float64 ``[T]``, unnormalised."""
    signal_to_noise = scheduler.alphas_cumprod / (1 - scheduler.alphas_cumprod)
    if weights == "uniform":
        return torch.ones_like(signal_to_noise)
    if weights == "min_snr":
        # A weight min(SNR, 5) on the error of x0, expressed for what the network predicts.
        per_unit = {PredictionType.EPSILON: signal_to_noise, PredictionType.V_PREDICTION: signal_to_noise + 1}
        return signal_to_noise.clamp(max=5) / per_unit.get(scheduler.prediction_type, torch.ones_like(signal_to_noise))
    if isinstance(weights, str):
        raise ValueError(f"timestep_weights must be 'uniform', 'min_snr' or numbers, found {weights!r}.")
    table = torch.tensor(list(weights), dtype=torch.float64)
    usable = bool((torch.isfinite(table) & (table >= 0)).all()) and bool((table > 0).any())
    if len(table) != scheduler.num_train_timesteps or not usable:
        raise ValueError(
            f"timestep_weights must be {scheduler.num_train_timesteps} numbers of at least 0 and not all 0, "
            f"found {len(table)} with a sum of {table.sum():.3g}."
        )
    return table


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.as_tensor() if isinstance(tensor, MetaTensor) else tensor
