# SPDX-License-Identifier: Apache-2.0
"""Refinement of a segmentor's result by a discrete diffusion prior."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from monai.utils import look_up_option

from ..networks.nets import MaskPriorUNet
from ..networks.nets.mask_prior_unet import check_scheduler
from ..networks.schedulers import CategoricalScheduler
from .call_progress import Progress
from .generation_inferer import GenerationInferer
from .generation_statistics import CategoricalUncertaintyStatistics, UncertaintyStatistics
from .label_refiner import LabelRefiner, Start

__all__ = ["MaskPriorInferer"]


class MaskPriorInferer(GenerationInferer):
    """Segment images with a base segmentor and a few steps of a mask prior (DDPS, arXiv 2306.01721).

    In each window the base runs once. From random labels the prior predicts the classes; its prediction is noised
    again to a lower level, and predicted anew, until the last step. Same seed, same bits, from any thread and in any
    packing: see :class:`GenerationInferer`. The scheduler given is copied.

    Args:
        scheduler: the diffusion of the labels, as in training. Its ``sampler`` says how a step is taken.
        num_inference_steps: calls of the denoiser: its timesteps are spread evenly from pure noise to almost clean
            labels. 1 is the network's first prediction, 0 the base alone.
        num_generations: results to average.
        start: ``"noise"`` (published) or ``"base_prediction"``: the base's labels stand for the first prediction, and
            are noised to where the second step of one more would be.
        base_weight: weight of the base's probabilities in the result, in [0, 1]; 0.5 is the ensemble of both.
        include_background: False leaves the channel of class 0 out of the results.
        roi_size: size of the windows, rounded up to what base and prior can divide; default: the whole image is one
            window. Images smaller than a window are padded inside.
        overlap: share by which neighbouring windows overlap, in [0, 1).
        mode: blending of windows, ``"gaussian"`` or ``"constant"``.
        sigma_scale: width of the Gaussian weights, relative to the window.
        padding_mode: how an image is padded where it is smaller than the window: as ``torch.nn.functional.pad``.
        max_batch: rows (windows x generations) in one call of the network, which always has so many: more than 1 pays
            on a GPU with many windows or generations. Default: 1.
        memory_limit: bytes of tensors that one call of the network may hold at its peak, in place of ``max_batch``.
        amp: run the networks (alone) in bfloat16.
        seed: start of all random streams, a non-negative integer.
        progress: True shows a progress bar over windows x generations x steps. A function is called with the calls done
            and those in all, at the start, after every encoding and after every call of the network; what it raises
            ends the sampling.

    Raises:
        TypeError: a scheduler that is not categorical.
        ValueError: a number out of range.

    Example:
        >>> from monai.networks.nets import BasicUNet
        >>> from monai_segdiff import BaseSegmentor
        >>> base = BaseSegmentor(BasicUNet(2, 1, 3, features=(8, 8, 8, 8, 8, 8)), 2, 1, 3, size_divisor=16)
        >>> network = MaskPriorUNet(base, (8, 16), (False, False), num_head_channels=8, norm_num_groups=8).eval()
        >>> inferer = MaskPriorInferer(CategoricalScheduler(3), num_inference_steps=3, roi_size=32)
        >>> inferer(torch.zeros(1, 1, 40, 32), network).shape
        torch.Size([1, 3, 40, 32])
    """

    def __init__(
        self,
        scheduler: CategoricalScheduler,
        num_inference_steps: int = 3,
        num_generations: int = 1,
        start: str = Start.NOISE,
        base_weight: float = 0.0,
        include_background: bool = True,
        roi_size: Sequence[int] | int | None = None,
        overlap: Sequence[float] | float = 0.25,
        mode: str = "gaussian",
        sigma_scale: float = 0.125,
        padding_mode: str = "replicate",
        max_batch: int | None = None,
        memory_limit: int | None = None,
        amp: bool = False,
        seed: int = 0,
        progress: Progress = False,
    ) -> None:
        if not isinstance(scheduler, CategoricalScheduler):
            raise TypeError(f"scheduler must be a CategoricalScheduler, found {type(scheduler).__name__}.")
        if not 0 <= base_weight <= 1:
            raise ValueError(f"base_weight must lie in [0, 1], found {base_weight}.")
        super().__init__(
            num_generations=num_generations,
            roi_size=roi_size,
            overlap=overlap,
            mode=mode,
            sigma_scale=sigma_scale,
            padding_mode=padding_mode,
            max_batch=1 if max_batch is None and memory_limit is None else max_batch,
            memory_limit=memory_limit,
            amp=amp,
            seed=seed,
            progress=progress,
        )
        self.start = look_up_option(start, Start)
        # From the base's prediction the first step of one more is left out.
        skipped = int(self.start == Start.BASE_PREDICTION)
        most = scheduler.num_train_timesteps - skipped
        if not 0 <= num_inference_steps <= most:
            raise ValueError(
                f"num_inference_steps must lie in 0..{most} with start={self.start}, found {num_inference_steps}."
            )
        self.base_weight = base_weight
        self.include_background = include_background
        # Without the background the classes do not sum to 1: each is a mask of its own.
        self.tally = CategoricalUncertaintyStatistics if include_background else UncertaintyStatistics
        self.scheduler = copy.deepcopy(scheduler).cpu()
        if num_inference_steps == 0:
            self.scheduler.timesteps = self.scheduler.timesteps[:0]
        else:
            self.scheduler.set_timesteps(num_inference_steps + skipped)
            self.scheduler.timesteps = self.scheduler.timesteps[skipped:]

    @property
    def num_calls(self) -> int:
        """Calls of the denoiser for one generation."""
        return len(self.scheduler.timesteps)

    def make_sampler(self, network: MaskPriorUNet, device: torch.device, trajectory: bool) -> LabelRefiner:
        """Return what draws and refines label maps."""
        if not hasattr(network, "base_logits"):
            raise TypeError(f"network must be a MaskPriorUNet, found {type(network).__name__}.")
        check_scheduler(self.scheduler, network)
        return LabelRefiner(
            self.scheduler,
            network,
            self.seed,
            device,
            start=self.start,
            base_weight=self.base_weight,
            include_background=self.include_background,
            trajectory=trajectory,
        )
