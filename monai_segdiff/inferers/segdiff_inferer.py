# SPDX-License-Identifier: Apache-2.0
"""Sampling of segmentation masks with a SegDiff network."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.utils import StrEnum, look_up_option

from ..networks.schedulers import RespacedScheduler
from .call_progress import Progress
from .compiled_network import CompiledNetwork
from .generation_inferer import GenerationInferer
from .generation_statistics import GenerationTally
from .generation_stopping import GenerationStopping
from .image_sampler import ImageSampler
from .mask_sampler import MaskSampler

__all__ = ["SegDiffInferer"]


class WindowMode(StrEnum):
    """How windows and sampling go together."""

    INDEPENDENT = "independent"
    JOINT = "joint"


class SegDiffInferer(GenerationInferer):
    """Segment images by averaging several generations of a SegDiff network.

    The image is encoded once per window, ``num_generations`` masks are sampled from noise, and their means are blended
    into the result. Same seed, same bits, from any thread and in any packing: see :class:`GenerationInferer`. The
    scheduler given is copied.

    Args:
        scheduler: one of this package's samplers, as the network was trained.
        num_inference_steps: steps of the sampler; default: all training steps.
        num_generations: masks to average (the paper: 30, the released code: 9).
        roi_size: size of the windows, rounded up to what the network's levels can divide; default: the whole image is
            one window. Images smaller than a window are padded inside.
        overlap: share by which neighbouring windows overlap, in [0, 1).
        mode: blending of windows, ``"gaussian"`` or ``"constant"``. The paper's setting for MoNuSeg is
            ``roi_size=256, overlap=0, mode="constant"``.
        sigma_scale: width of the Gaussian weights, relative to the window.
        padding_mode: how an image is padded where it is smaller than the window: as ``torch.nn.functional.pad``.
        window_mode: ``"independent"``: one diffusion for each window, the means are blended (published). ``"joint"``:
            one noisy mask of the whole image is denoised, and the network's predictions are blended at every step
            (MultiDiffusion, arXiv 2302.08113), so that windows cannot draw different masks where they overlap. With
            ``overlap=0`` they still do not see each other.
        max_batch: rows (windows x generations) in one call of the network, in place of MONAI's ``sw_batch_size``;
            default: 1 on a CPU, 16 elsewhere. Memory does not grow with the generations beyond it.
        memory_limit: bytes of tensors that one call of the network may hold at its peak; ``max_batch`` is then found by
            a probe. Give one of the two.
        stopping: ends the generations of a window early; default: never. Needs the features and means of all windows
            at once. Without effect on :meth:`generations`, :meth:`trajectory` and in joint mode.
        cache_image_features: encode the image once for all steps. ``False`` encodes it at every step, as the released
            code does: the same bits, for comparison of cost.
        amp: run the network (alone) in bfloat16.
        compile: run the network through ``torch.compile``, or with this ``mode`` of it, e.g. ``"max-autotune"``. Give
            a ``roi_size``: every other size of a window compiles anew, and PyTorch refuses the ninth.
        seed: start of all random streams, a non-negative integer.
        progress: True shows a progress bar over windows x generations x steps. A function is called with the calls done
            and those in all, at the start, after every encoding and after every call of the network; what it raises
            ends the sampling.

    Raises:
        TypeError: a scheduler that is not this package's.
        ValueError: a number out of range.

    Example:
        >>> inferer = SegDiffInferer(RespacedDDIMScheduler(), num_inference_steps=5, roi_size=256)  # doctest: +SKIP
        >>> probability = inferer(image, network)  # doctest: +SKIP
    """

    def __init__(
        self,
        scheduler: RespacedScheduler,
        num_inference_steps: int | None = None,
        num_generations: int = 1,
        roi_size: Sequence[int] | int | None = None,
        overlap: Sequence[float] | float = 0.25,
        mode: str = "gaussian",
        sigma_scale: float = 0.125,
        padding_mode: str = "replicate",
        window_mode: str = WindowMode.INDEPENDENT,
        max_batch: int | None = None,
        memory_limit: int | None = None,
        stopping: GenerationStopping | None = None,
        cache_image_features: bool = True,
        amp: bool = False,
        compile: bool | str = False,
        seed: int = 0,
        progress: Progress = False,
    ) -> None:
        if not isinstance(scheduler, RespacedScheduler):
            raise TypeError(
                f"scheduler must be a monai_segdiff scheduler, found {type(scheduler).__name__}: MONAI's own do not "
                "read the true previous timestep when steps are skipped."
            )
        super().__init__(
            num_generations=num_generations,
            roi_size=roi_size,
            overlap=overlap,
            mode=mode,
            sigma_scale=sigma_scale,
            padding_mode=padding_mode,
            max_batch=max_batch,
            memory_limit=memory_limit,
            amp=amp,
            seed=seed,
            progress=progress,
        )
        # On the CPU, where reading its tables costs no synchronisation with a GPU.
        self.scheduler = copy.deepcopy(scheduler).cpu()
        self.scheduler.set_timesteps(
            scheduler.num_train_timesteps if num_inference_steps is None else num_inference_steps
        )
        self.window_mode = look_up_option(window_mode, WindowMode)
        self.stopping = stopping
        self.cache_image_features = cache_image_features
        self.compiled = CompiledNetwork(compile) if compile else None

    @property
    def num_calls(self) -> int:
        """Calls of the network for one generation: the sampler's steps."""
        return len(self.scheduler.timesteps)

    def make_sampler(self, network: Any, device: torch.device, trajectory: bool) -> MaskSampler:
        """Return what draws masks by Gaussian diffusion."""
        if hasattr(network, "base_logits"):
            raise TypeError(f"network must predict masks, found {type(network).__name__}: use MaskPriorInferer.")
        return MaskSampler(self.scheduler, self.seed, device, trajectory)

    def _halves(self, network: Any) -> tuple[Callable[..., torch.Tensor], Callable[..., torch.Tensor]]:
        return self.compiled(network) if self.compiled else super()._halves(network)

    def _sample(
        self, image_sampler: ImageSampler, tally: Callable[[], GenerationTally], may_stop: bool
    ) -> list[torch.Tensor]:
        if self.window_mode == WindowMode.JOINT:
            return image_sampler.joint(tally)
        return image_sampler.independent(tally, self.stopping if may_stop else None)
