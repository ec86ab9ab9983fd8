# SPDX-License-Identifier: Apache-2.0
"""The one sampling loop of Gaussian diffusion."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from ..networks.schedulers import RespacedScheduler
from .generation_statistics import mask_to_probability
from .random_stream import random_stream

__all__ = ["MaskSampler"]


class MaskSampler:
    """Draw masks from noise (algorithm 2 of arXiv 2112.00390), each from its own random stream.

    Args:
        scheduler: with its timesteps set, and its tables on the CPU. It is not changed.
        seed: start of all random streams.
        device: where to sample. The noise is drawn on the CPU, so that all devices see the same.
        trajectory: give all predictions of the clean mask on the way, instead of the last mask alone.
    """

    def __init__(self, scheduler: RespacedScheduler, seed: int, device: torch.device, trajectory: bool = False) -> None:
        self.scheduler = scheduler
        self.seed = seed
        self.device = device
        self.trajectory = trajectory

    def __call__(
        self,
        predict: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        keys: Sequence[Sequence[int]],
        shape: Sequence[int],
    ) -> torch.Tensor:
        """Draw one mask for each key.

        Args:
            predict: the network's output for noisy masks ``[len(keys), *shape]`` at a timestep of shape ``(1,)``.
            keys: what makes a mask's random stream its own, e.g. its generation and its place.
            shape: ``[C, *spatial]`` of a mask.

        Returns:
            Masks in the diffusion's range, float32 ``[len(keys), *shape]``. Of a trajectory, with the channels of S
            steps one after another, ``[len(keys), S * C, *spatial]``; the last step is the mask itself.
        """
        streams = [random_stream(self.seed, key) for key in keys]
        scheduler = self.scheduler.for_trajectory()
        # All at once: a copy at every step would make the GPU wait for the CPU.
        timesteps = scheduler.timesteps.to(self.device)
        x = self._noise(streams, shape)
        predictions = []
        for step, timestep in enumerate(scheduler.timesteps.tolist()):
            output = predict(x, timesteps[step : step + 1])
            noise = self._noise(streams, shape) if scheduler.is_stochastic else None
            x, prediction = scheduler.step(output, timestep, x, noise=noise)
            if self.trajectory:
                predictions.append(prediction)
        return torch.cat([*predictions[:-1], x], dim=1)

    def probability(self, masks: torch.Tensor) -> torch.Tensor:
        """Return the masks as probabilities."""
        return mask_to_probability(masks)

    def blank(self, shape: Sequence[int]) -> torch.Tensor:
        """Return an input of the network of the size that it has for masks ``[R, C, *spatial]``."""
        return torch.zeros(*shape, device=self.device)

    def _noise(self, streams: Sequence[torch.Generator], shape: Sequence[int]) -> torch.Tensor:
        noise = torch.stack([torch.randn(tuple(shape), generator=stream) for stream in streams])
        if self.device.type == "cuda":
            return noise.pin_memory().to(self.device, non_blocking=True)
        return noise.to(self.device)
