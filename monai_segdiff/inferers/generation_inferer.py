# SPDX-License-Identifier: Apache-2.0
"""What the inferers share: windows, generations, packing and seeds."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from torch import nn
from torch.nn.modules.dropout import _DropoutNd
from typing_extensions import Self

from ..exceptions import DivergenceError
from .call_progress import Progress, counted_calls
from .generation_statistics import (
    GenerationStatistics,
    GenerationTally,
    KeptGenerations,
    RunningStatistics,
    UncertaintyStatistics,
)
from .image_sampler import GenerationSampler, ImageSampler
from .memory_probe import rows_within
from .packed_network import PackedNetwork
from .window_plan import WindowPlan

__all__ = ["GenerationInferer"]

# A batch gains little on a CPU (5 rows of 128x128: 11 % less time, three times the memory) and then fills up the last.
ROWS_ON_CPU, ROWS_ON_GPU = 1, 16


class GenerationInferer(Inferer):
    """Base of inferers that average several generations of a network over the windows of an image.

    The image is encoded once per window, ``num_generations`` results are sampled for it, and their means are blended.
    The object holds no state between calls, except for compiled code: it may be used from several threads, and no
    global random state is read or changed. Every window and generation has its own random stream, derived from
    ``seed``, the window's position and the generation's number, and the network always runs on ``max_batch`` rows. The
    result therefore has the same bits for any packing: other images in the batch, more generations, windows in any
    order, on one device.

    A subclass says how a generation is drawn (:meth:`make_sampler`) and how many calls of the network it takes
    (:attr:`num_calls`). A network has ``encode_image``, ``forward(x, timesteps, image_features=...)``,
    ``spatial_dims``, ``image_channels``, ``mask_channels`` and ``size_divisor``.

    Args:
        num_generations: results to average.
        roi_size: size of the windows, rounded up to what the network's levels can divide; default: the whole image is
            one window. Images smaller than a window are padded inside.
        overlap: share by which neighbouring windows overlap, in [0, 1).
        mode: blending of windows, ``"gaussian"`` or ``"constant"``.
        sigma_scale: width of the Gaussian weights, relative to the window.
        padding_mode: how an image is padded where it is smaller than the window: as ``torch.nn.functional.pad``.
        max_batch: rows (windows x generations) in one call of the network, in place of MONAI's ``sw_batch_size``;
            default: 1 on a CPU, 16 elsewhere. Memory does not grow with the generations beyond it.
        memory_limit: bytes of tensors that one call of the network may hold at its peak; ``max_batch`` is then found by
            a probe. Give one of the two.
        amp: run the network (alone) in bfloat16.
        seed: start of all random streams, a non-negative integer.
        progress: True shows a progress bar over windows x generations x calls. A function is called with the calls done
            and those in all, at the start, after every encoding and after every call of the network; what it raises
            ends the sampling.

    Raises:
        ValueError: a number out of range.
    """

    tally: type[UncertaintyStatistics] = UncertaintyStatistics

    def __init__(
        self,
        num_generations: int = 1,
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
        super().__init__()
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
        self.num_generations = num_generations
        self.windows: dict[str, Any] = {"roi_size": roi_size, "overlap": overlap, "mode": mode}
        self.windows |= {"sigma_scale": sigma_scale, "padding_mode": padding_mode}
        self.max_batch = max_batch
        # From a command line or a JSON file 8e9 comes as a float.
        self.memory_limit = None if memory_limit is None else int(memory_limit)
        self.cache_image_features = True
        self.amp = amp
        self.seed = seed
        self.progress = progress

    @property
    @abstractmethod
    def num_calls(self) -> int:
        """Calls of the network for one generation."""

    @abstractmethod
    def make_sampler(self, network: Any, device: torch.device, trajectory: bool) -> GenerationSampler:
        """Return what draws generations, or, of a trajectory, all steps of them, one after another in the channels."""

    def __call__(  # type: ignore[override]
        self, inputs: torch.Tensor, network: nn.Module, *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """Return the mean probability over the generations.

        Args:
            inputs: images ``[B, image_channels, *spatial]``, prepared as in training.
            network: the network, plain or wrapped for distributed training.
            args: ignored; engines may pass more than the contract asks for.
            kwargs: ignored.

        Returns:
            ``[B, C, *spatial]`` in [0, 1], float32, a ``MetaTensor`` if ``inputs`` is one. C is the network's
            ``mask_channels``, less the background where that is left out.

        Raises:
            TypeError: a network of another kind.
            ValueError: wrong dimensions or channels, an empty image, NaN or infinity, or active dropout.
            DivergenceError: the network returns NaN.
        """
        return self._run(inputs, network, RunningStatistics)[0].clamp(max=1)

    def with_progress(self, progress: Progress) -> Self:
        """Return this inferer with another ``progress``; both may be used at the same time."""
        other = copy.copy(self)
        other.progress = progress
        return other

    def statistics(self, inputs: torch.Tensor, network: nn.Module) -> GenerationStatistics:
        """Return mean and uncertainty over the generations; arguments as :meth:`__call__`."""
        mean, *others = self._run(inputs, network, self.tally)
        return GenerationStatistics.from_maps(mean.clamp(max=1), *others)

    def generations(self, inputs: torch.Tensor, network: nn.Module) -> torch.Tensor:
        """Return the single generations as probabilities, ``[N, B, C, *spatial]``."""
        return torch.stack(self._run(inputs, network, KeptGenerations)).clamp(max=1)

    def trajectory(self, inputs: torch.Tensor, network: nn.Module) -> torch.Tensor:
        """Return what the result would be if sampling ended after each call of the network.

        Returns:
            Mean over the generations of the probability that each call gives, ``[num_calls, B, C, *spatial]``; the
            last entry is that of :meth:`__call__`.
        """
        mean = self._run(inputs, network, RunningStatistics, trajectory=True)[0].clamp(max=1)
        return mean.unflatten(1, (max(self.num_calls, 1), -1)).movedim(1, 0)

    def _halves(self, network: Any) -> tuple[Callable[..., torch.Tensor], Callable[..., torch.Tensor]]:
        """Return what encodes an image, and what predicts."""
        return network.encode_image, network

    def _sample(
        self, image_sampler: ImageSampler, tally: Callable[[], GenerationTally], may_stop: bool
    ) -> list[torch.Tensor]:
        """Return the maps of one image; ``may_stop`` where means of fewer generations would do."""
        return image_sampler.independent(tally)

    def _run(
        self,
        inputs: torch.Tensor,
        network: nn.Module,
        tally: Callable[[], GenerationTally],
        trajectory: bool = False,
    ) -> list[torch.Tensor]:
        """Sample image after image, and return the maps that the tallies make of the generations, all at least 0."""
        inner: Any = getattr(network, "module", network)
        # By its methods, not by its class: a compiled or otherwise wrapped network serves as well.
        if not hasattr(inner, "encode_image"):
            raise TypeError(
                "network must have `encode_image`, as SegDiffUNet and MaskPriorUNet have; "
                f"found {type(inner).__name__}."
            )
        sampler = self.make_sampler(inner, inputs.device, trajectory)
        if any(isinstance(module, _DropoutNd) and module.training and module.p > 0 for module in inner.modules()):
            raise ValueError("Expected the network in eval mode: its dropout would make every call differ.")
        _check_image(inputs, inner)
        # Plain tensors: every operation on a MetaTensor costs several times as much.
        images = (inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs).float()
        plan = WindowPlan(images.shape[2:], divisor=inner.size_divisor, **self.windows)
        encode, denoise = self._halves(inner)
        calls = len(images) * len(plan.windows) * self.num_generations * self.num_calls
        # The single generations and the steps are asked for whole.
        may_stop = tally is not KeptGenerations and not trajectory
        parts = []
        with torch.inference_mode(), self._autocast(images.device), counted_calls(self.progress, calls) as count:
            max_batch = self._rows(plan, images[:1], inner, sampler)
            for image in images:
                padded = plan.pad(image[None])
                packed = PackedNetwork(
                    encode, denoise, partial(plan.cut, padded), max_batch, self.cache_image_features, count
                )
                one = ImageSampler(sampler, packed, plan, inner.mask_channels, self.num_generations)
                parts.append(self._sample(one, tally, may_stop))
        # Outside: what was made in inference mode could not be changed in place by later transforms.
        maps = [plan.crop(torch.cat(same)).clamp(min=0) for same in zip(*parts, strict=True)]
        if not all(torch.isfinite(item).all() for item in maps):
            raise DivergenceError(
                "Expected finite probabilities, found NaN: the network's weights may be damaged, or the image's values "
                "far from those it was trained with."
            )
        return [_with_meta_of(inputs, item) for item in maps]

    def _autocast(self, device: torch.device) -> AbstractContextManager[object]:
        """Return the context of the network's precision; without ``amp`` that of the caller stays."""
        return torch.autocast(device.type, dtype=torch.bfloat16) if self.amp else nullcontext()

    def _rows(self, plan: WindowPlan, image: torch.Tensor, network: Any, sampler: GenerationSampler) -> int:
        """Return how many rows one call of the network has."""
        if self.memory_limit is None:
            return self.max_batch or (ROWS_ON_CPU if image.device.type == "cpu" else ROWS_ON_GPU)
        window = plan.cut(plan.pad(image), 0)
        timestep = torch.zeros(1, device=image.device)

        def call(rows: int) -> torch.Tensor:
            features = torch.cat([network.encode_image(window)] * rows)
            return network(
                sampler.blank((rows, network.mask_channels, *plan.roi_size)), timestep, image_features=features
            )

        return rows_within(self.memory_limit, call)


def _with_meta_of(inputs: torch.Tensor, result: torch.Tensor) -> torch.Tensor:
    """Return the result as a MetaTensor if the input is one, with a copy of its meta data."""
    if not isinstance(inputs, MetaTensor):
        return result
    return MetaTensor(result).copy_meta_from(inputs)


def _check_image(image: torch.Tensor, network: Any) -> None:
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
