# SPDX-License-Identifier: Apache-2.0
"""The one refine loop of discrete diffusion."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.utils import StrEnum

from ..exceptions import DivergenceError
from ..networks.nets import MaskPriorUNet
from ..networks.schedulers import CategoricalScheduler
from .packed_network import PackedRows
from .random_stream import random_stream

__all__ = ["LabelRefiner", "Start"]


class Start(StrEnum):
    """What the refinement begins with."""

    NOISE = "noise"
    BASE_PREDICTION = "base_prediction"


class LabelRefiner:
    """Draw label maps and refine them (section 3.4 of arXiv 2306.01721), each from its own random stream.

    Args:
        scheduler: with its timesteps set, and its tables on the CPU. It is not changed.
        network: what is refined with: it says how large label maps are inside the diffusion.
        seed: start of all random streams.
        device: where to sample. The noise is drawn on the CPU, so that all devices see the same.
        start: the first input: ``"noise"``, or the ``"base_prediction"`` noised to the first timestep.
        base_weight: weight of the base's probabilities in the result, in [0, 1].
        include_background: False leaves class 0 out of the results.
        trajectory: give the result after every step instead of that after the last alone.
    """

    def __init__(
        self,
        scheduler: CategoricalScheduler,
        network: MaskPriorUNet,
        seed: int,
        device: torch.device,
        start: str = Start.NOISE,
        base_weight: float = 0.0,
        include_background: bool = True,
        trajectory: bool = False,
    ) -> None:
        self.scheduler = scheduler
        self.network = network
        self.seed = seed
        self.device = device
        self.start = start
        self.base_weight = base_weight
        self.first_class = 0 if include_background else 1
        self.trajectory = trajectory

    def __call__(self, predict: PackedRows, keys: Sequence[Sequence[int]], shape: Sequence[int]) -> torch.Tensor:
        """Refine one label map for each key.

        Args:
            predict: the network's logits for noisy labels ``[len(keys), 1, *latent]`` at a timestep of shape ``(1,)``.
            keys: what makes a map's random stream its own, e.g. its generation and its place.
            shape: ``[K, *spatial]`` of a result.

        Returns:
            Class probabilities, float32 ``[len(keys), *shape]``, or without the background's. Of a trajectory, with the
            classes of all steps one after another. Without timesteps, those of the base.

        Raises:
            DivergenceError: base or network return NaN or infinity.
        """
        if not len(self.scheduler.timesteps):
            return self._base(predict)[:, self.first_class :]
        streams = [random_stream(self.seed, key) for key in keys]
        labels = self._first_labels(predict, self._noise(streams, shape))
        # All at once: a copy at every step would make the GPU wait for the CPU.
        timesteps = self.scheduler.timesteps.to(self.device)
        results = []
        for step, timestep in enumerate(self.scheduler.timesteps.tolist()):
            # Labels made of NaN would look like any others.
            logits = _finite(predict(labels, timesteps[step : step + 1]))
            last = step + 1 == len(timesteps)
            if not last:
                labels, _ = self.scheduler.step(logits, timestep, labels, noise=self._noise(streams, shape))
            if last or self.trajectory:
                results.append(self._result(predict, logits))
        return torch.cat(results, dim=1)

    def probability(self, masks: torch.Tensor) -> torch.Tensor:
        """Return the results, which are probabilities already."""
        return masks

    def blank(self, shape: Sequence[int]) -> torch.Tensor:
        """Return an input of the network of the size that it has for results ``[R, K, *spatial]``."""
        return self.network.to_latent(torch.zeros(shape[0], 1, *shape[2:], dtype=torch.long, device=self.device))

    def _base(self, predict: PackedRows) -> torch.Tensor:
        """Return the class probabilities of the base."""
        return _finite(self.network.base_logits(predict.features()).float().softmax(dim=1))

    def _first_labels(self, predict: PackedRows, noise: torch.Tensor) -> torch.Tensor:
        if self.start == Start.NOISE:
            return self.scheduler.pure_noise(noise)
        labels = self.network.to_latent(self._base(predict).argmax(dim=1, keepdim=True))
        return self.scheduler.add_noise(labels, noise, self.scheduler.timesteps[:1])

    def _result(self, predict: PackedRows, logits: torch.Tensor) -> torch.Tensor:
        probability = self.network.upsample(logits).softmax(dim=1)
        if self.base_weight > 0:
            probability = torch.lerp(probability, self._base(predict), self.base_weight)
        return probability[:, self.first_class :]

    def _noise(self, streams: Sequence[torch.Generator], shape: Sequence[int]) -> torch.Tensor:
        size = [2, *(edge // self.network.latent_stride for edge in shape[1:])]
        return torch.stack([torch.rand(size, generator=stream) for stream in streams]).to(self.device)


def _finite(prediction: torch.Tensor) -> torch.Tensor:
    if not torch.isfinite(prediction).all():
        raise DivergenceError("Expected finite predictions, found NaN or infinity: the weights may be damaged.")
    return prediction
