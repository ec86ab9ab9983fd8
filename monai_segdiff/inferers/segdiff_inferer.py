# SPDX-License-Identifier: Apache-2.0
"""Sampling of segmentation masks: windows, generations, and the one sampling loop."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, cast

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from monai.utils import StrEnum, look_up_option
from torch import nn
from torch.nn.modules.dropout import _DropoutNd
from tqdm import tqdm

from ..exceptions import DivergenceError
from ..networks.nets import SegDiffUNet
from ..networks.schedulers import RespacedScheduler
from .compiled_network import CompiledNetwork
from .generation_statistics import (
    GenerationStatistics,
    GenerationTally,
    KeptGenerations,
    RunningStatistics,
    UncertaintyStatistics,
)
from .generation_stopping import GenerationStopping
from .image_sampler import ImageSampler
from .mask_sampler import MaskSampler
from .memory_probe import rows_within
from .packed_network import PackedNetwork
from .window_plan import WindowPlan

__all__ = ["SegDiffInferer"]

# A batch gains little on a CPU (5 rows of 128x128: 11 % less time, three times the memory) and then fills up the last.
ROWS_ON_CPU, ROWS_ON_GPU = 1, 16


class WindowMode(StrEnum):
    """How windows and sampling go together."""

    INDEPENDENT = "independent"
    JOINT = "joint"


class SegDiffInferer(Inferer):
    """Segment images by averaging several generations of a SegDiff network.

    The image is encoded once per window, ``num_generations`` masks are sampled from noise, and their means are blended
    into the result. The object holds no state between calls, except for compiled code: it may be used from several
    threads, the scheduler given is copied, and no global random state is read or changed.

    Every window and generation has its own random stream, derived from ``seed``, the window's position and the
    generation's number, and the network always runs on ``max_batch`` rows. The result therefore has the same bits for
    any packing: other images in the batch, more generations, windows in any order, on one device.

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
        progress: show a progress bar over windows x generations x steps.

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
        progress: bool = False,
    ) -> None:
        super().__init__()
        if not isinstance(scheduler, RespacedScheduler):
            raise TypeError(
                f"scheduler must be a monai_segdiff scheduler, found {type(scheduler).__name__}: MONAI's own do not "
                "read the true previous timestep when steps are skipped."
            )
        for name, value, least in (
            ("num_generations", num_generations, 1),
            ("max_batch", max_batch, 1),
            ("memory_limit", memory_limit, 1),
            ("seed", seed, 0),
        ):
            if value is not None and value < least:
                raise ValueError(f"{name} must be at least {least}, found {value}.")
        if max_batch is not None and memory_limit is not None:
            raise ValueError(f"Give max_batch or memory_limit, found both: {max_batch} and {memory_limit}.")
        # On the CPU, where reading its tables costs no synchronisation with a GPU.
        self.scheduler = copy.deepcopy(scheduler).cpu()
        self.scheduler.set_timesteps(
            scheduler.num_train_timesteps if num_inference_steps is None else num_inference_steps
        )
        self.num_generations = num_generations
        self.windows: dict[str, Any] = {"roi_size": roi_size, "overlap": overlap, "mode": mode}
        self.windows |= {"sigma_scale": sigma_scale, "padding_mode": padding_mode}
        self.window_mode = look_up_option(window_mode, WindowMode)
        self.max_batch = max_batch
        # From a command line or a JSON file 8e9 comes as a float.
        self.memory_limit = None if memory_limit is None else int(memory_limit)
        self.stopping = stopping
        self.cache_image_features = cache_image_features
        self.amp = amp
        self.compiled = CompiledNetwork(compile) if compile else None
        self.seed = seed
        self.progress = progress

    def __call__(  # type: ignore[override]
        self, inputs: torch.Tensor, network: nn.Module, *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """Return the mean probability over the generations.

        Args:
            inputs: images ``[B, image_channels, *spatial]``, prepared as in training.
            network: a :class:`~monai_segdiff.SegDiffUNet`, plain or wrapped for distributed training.
            args: ignored; engines may pass more than the contract asks for.
            kwargs: ignored.

        Returns:
            ``[B, mask_channels, *spatial]`` in [0, 1], float32; a ``MetaTensor`` if ``inputs`` is one.

        Raises:
            TypeError: a network without ``encode_image``.
            ValueError: wrong dimensions or channels, an empty image, NaN or infinity, or active dropout.
            DivergenceError: the network returns NaN.
        """
        return self._run(inputs, network, RunningStatistics, self.stopping)[0]

    def statistics(self, inputs: torch.Tensor, network: nn.Module) -> GenerationStatistics:
        """Return mean and uncertainty over the generations; arguments as :meth:`__call__`.

        With ``stopping`` those of a window that stopped are over the fewer generations that it had.
        """
        return GenerationStatistics.from_maps(*self._run(inputs, network, UncertaintyStatistics, self.stopping))

    def generations(self, inputs: torch.Tensor, network: nn.Module) -> torch.Tensor:
        """Return the single generations as probabilities, ``[N, B, mask_channels, *spatial]``."""
        return torch.stack(self._run(inputs, network, KeptGenerations, None))

    def trajectory(self, inputs: torch.Tensor, network: nn.Module) -> torch.Tensor:
        """Return what the result would be if sampling ended after each step.

        Returns:
            Mean over the generations of the probability that each step's prediction of the clean mask gives,
            ``[num_inference_steps, B, mask_channels, *spatial]``; the last entry is that of :meth:`__call__`
            without ``stopping``.
        """
        mean = self._run(inputs, network, RunningStatistics, None, trajectory=True)[0]
        return mean.unflatten(1, (len(self.scheduler.timesteps), -1)).movedim(1, 0)

    def _run(
        self,
        inputs: torch.Tensor,
        network: nn.Module,
        tally: Callable[[], GenerationTally],
        stopping: GenerationStopping | None,
        trajectory: bool = False,
    ) -> list[torch.Tensor]:
        """Sample image after image, and return the maps that the tallies make of the generations."""
        inner = getattr(network, "module", network)
        if not hasattr(inner, "encode_image"):
            raise TypeError(f"network must have `encode_image`, as SegDiffUNet does; found {type(inner).__name__}.")
        # By its methods, not by its class: a compiled or otherwise wrapped network serves as well.
        segdiff = cast(SegDiffUNet, inner)
        if any(isinstance(module, _DropoutNd) and module.training and module.p > 0 for module in inner.modules()):
            raise ValueError("Expected the network in eval mode: its dropout would make every call differ.")
        _check_image(inputs, segdiff)
        # Plain tensors: every operation on a MetaTensor costs several times as much.
        images = (inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs).float()
        plan = WindowPlan(images.shape[2:], divisor=segdiff.size_divisor, **self.windows)
        encode, denoise = self.compiled(segdiff) if self.compiled else (segdiff.encode_image, segdiff)
        sampler = MaskSampler(self.scheduler, self.seed, images.device, trajectory)
        steps = len(images) * len(plan.windows) * self.num_generations * len(self.scheduler.timesteps)
        parts = []
        with torch.inference_mode(), self._autocast(images.device), tqdm(total=steps, disable=not self.progress) as bar:
            max_batch = self._rows(plan, images[:1], segdiff)
            for image in images:
                padded = plan.pad(image[None])
                packed = PackedNetwork(
                    encode, denoise, partial(plan.cut, padded), max_batch, self.cache_image_features, bar.update
                )
                one = ImageSampler(sampler, packed, plan, segdiff.mask_channels, self.num_generations)
                joint = self.window_mode == WindowMode.JOINT
                parts.append(one.joint(tally) if joint else one.independent(tally, stopping))
        # Outside: what was made in inference mode could not be changed in place by later transforms.
        maps = [plan.crop(torch.cat(same)).clamp(0, 1) for same in zip(*parts, strict=True)]
        if not all(torch.isfinite(item).all() for item in maps):
            raise DivergenceError("Expected finite probabilities, found NaN: the network's weights may be damaged.")
        return [_with_meta_of(inputs, item) for item in maps]

    def _autocast(self, device: torch.device) -> AbstractContextManager[object]:
        """Return the context of the network's precision; without ``amp`` that of the caller stays."""
        return torch.autocast(device.type, dtype=torch.bfloat16) if self.amp else nullcontext()

    def _rows(self, plan: WindowPlan, image: torch.Tensor, network: SegDiffUNet) -> int:
        """Return how many rows one call of the network has."""
        if self.memory_limit is None:
            return self.max_batch or (ROWS_ON_CPU if image.device.type == "cpu" else ROWS_ON_GPU)
        window = plan.cut(plan.pad(image), 0)
        timestep = torch.zeros(1, device=image.device)

        def call(rows: int) -> torch.Tensor:
            features = torch.cat([network.encode_image(window)] * rows)
            noisy = torch.zeros(rows, network.mask_channels, *plan.roi_size, device=image.device)
            return network(noisy, timestep, image_features=features)

        return rows_within(self.memory_limit, call)


def _with_meta_of(inputs: torch.Tensor, result: torch.Tensor) -> torch.Tensor:
    """Return the result as a MetaTensor if the input is one, with a copy of its meta data."""
    if not isinstance(inputs, MetaTensor):
        return result
    return MetaTensor(result).copy_meta_from(inputs)


def _check_image(image: torch.Tensor, network: SegDiffUNet) -> None:
    dims, channels = network.spatial_dims, network.image_channels
    files = image.meta.get("filename_or_obj") if isinstance(image, MetaTensor) else None
    where = f" in {files}" if files else ""
    if image.ndim != dims + 2 or image.shape[1] != channels:
        raise ValueError(
            f"Expected images [B, {channels}, {dims} spatial sizes], found shape {list(image.shape)}{where}."
        )
    if image.numel() == 0:
        raise ValueError(f"Expected a non-empty image, found shape {list(image.shape)}{where}.")
    if not torch.isfinite(image).all():
        raise ValueError(f"Expected finite values, found NaN or infinity{where}.")
