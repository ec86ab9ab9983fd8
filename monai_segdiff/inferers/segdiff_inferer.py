# SPDX-License-Identifier: Apache-2.0
"""Sampling of segmentation masks: windows, generations, and the one sampling loop."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import torch
from monai.data import MetaTensor
from monai.inferers import Inferer, SlidingWindowInferer
from torch import nn
from torch.nn import functional as F

from ..exceptions import DivergenceError
from ..networks.nets import SegDiffUNet
from ..networks.schedulers import RespacedScheduler
from .generation_statistics import GenerationStatistics, mask_to_probability

__all__ = ["SegDiffInferer"]


class SegDiffInferer(Inferer):
    """Segment images by averaging several generations of a SegDiff network in each window.

    For every window the image is encoded once, ``num_generations`` masks are sampled from noise in one batch, and
    their mean is blended into the result. The object holds no state between calls: it may be used from several
    threads, the scheduler given is copied, and no global random state is read or changed.

    Every window and generation has its own random stream, derived from ``seed``, the window's position and the
    generation's number, and the network always runs on batches of the same number of rows. The result therefore has
    the same bits for any ``sw_batch_size`` and any number of images in a batch, on one device.

    Args:
        scheduler: one of this package's samplers, as the network was trained.
        num_inference_steps: steps of the sampler; default: all training steps.
        num_generations: masks to average (the paper: 30, the released code: 9).
        roi_size: size of the windows; default: the whole image is one window. Images smaller than a window and windows
            that the network's levels cannot divide are padded inside.
        sw_batch_size: number of windows to work on at a time; bounds memory.
        overlap: share by which neighbouring windows overlap, in [0, 1).
        mode: blending of windows, ``"gaussian"`` or ``"constant"``. The paper's setting for MoNuSeg is
            ``roi_size=256, overlap=0, mode="constant"``.
        sigma_scale: width of the Gaussian weights, relative to the window.
        padding_mode: how an image is padded where it is smaller than the window: as ``torch.nn.functional.pad``.
        max_batch: rows (windows x generations) in one call of the network; default ``num_generations``. The last call
            is filled up to this number.
        cache_image_features: encode the image once for all steps. ``False`` encodes it at every step, as the released
            code does: the same bits, for comparison of cost.
        seed: start of all random streams, a non-negative integer.
        progress: show a progress bar over the windows.

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
        sw_batch_size: int = 1,
        overlap: float = 0.25,
        mode: str = "gaussian",
        sigma_scale: float = 0.125,
        padding_mode: str = "replicate",
        max_batch: int | None = None,
        cache_image_features: bool = True,
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
            ("seed", seed, 0),
        ):
            if value is not None and value < least:
                raise ValueError(f"{name} must be at least {least}, found {value}.")
        self.scheduler = copy.deepcopy(scheduler)
        self.scheduler.set_timesteps(
            scheduler.num_train_timesteps if num_inference_steps is None else num_inference_steps
        )
        self.num_generations = num_generations
        self.max_batch = max_batch or num_generations
        self.cache_image_features = cache_image_features
        self.seed = seed
        self.windows = SlidingWindowInferer(
            roi_size=-1 if roi_size is None else roi_size,
            sw_batch_size=sw_batch_size,
            overlap=overlap,
            mode=mode,
            sigma_scale=sigma_scale,
            padding_mode=padding_mode,
            progress=progress,
            with_coord=True,
        )

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
        return self._run(inputs, network, lambda generations: [generations.mean(0)])[0]

    def statistics(self, inputs: torch.Tensor, network: nn.Module) -> GenerationStatistics:
        """Return mean, variance and entropy over the generations, blended alike; arguments as :meth:`__call__`."""
        return GenerationStatistics(*self._run(inputs, network, GenerationStatistics.from_generations))

    def generations(self, inputs: torch.Tensor, network: nn.Module) -> torch.Tensor:
        """Return the single generations as probabilities, ``[N, B, mask_channels, *spatial]``."""
        return torch.stack(self._run(inputs, network, list))

    def _run(
        self, inputs: torch.Tensor, network: nn.Module, reduce: Callable[[torch.Tensor], Sequence[torch.Tensor]]
    ) -> list[torch.Tensor]:
        """Slide over the images, sample in each window, and stitch every map that ``reduce`` makes of a window."""
        inner = getattr(network, "module", network)
        if not hasattr(inner, "encode_image"):
            raise TypeError(f"network must have `encode_image`, as SegDiffUNet does; found {type(inner).__name__}.")
        # By its methods, not by its class: a compiled or otherwise wrapped network serves as well.
        segdiff = cast(SegDiffUNet, inner)
        if any(isinstance(module, nn.Dropout) and module.training and module.p > 0 for module in inner.modules()):
            raise ValueError("Expected the network in eval mode: its dropout would make every call differ.")
        inputs = inputs.float()
        _check_image(inputs, segdiff)

        def sample_windows(windows: torch.Tensor, slices: Sequence[Sequence[slice]]) -> tuple[torch.Tensor, ...]:
            origins = [tuple(int(axis.start) for axis in window[2:]) for window in slices]
            return tuple(reduce(self._sample(windows, origins, segdiff)))

        with torch.no_grad():
            maps = self.windows(inputs, sample_windows)
        stitched = [maps] if isinstance(maps, torch.Tensor) else list(maps)
        if not all(torch.isfinite(item).all() for item in stitched):
            raise DivergenceError("Expected finite probabilities, found NaN: the network's weights may be damaged.")
        # Dividing by the summed weights may overshoot by a rounding error.
        return [item.clamp(0, 1) for item in stitched]

    def _sample(self, windows: torch.Tensor, origins: Sequence[tuple[int, ...]], network: SegDiffUNet) -> torch.Tensor:
        """Return the generations of some windows as probabilities ``[N, W, mask_channels, *roi]``."""
        spatial = windows.shape[2:]
        windows = _pad_to_multiple(windows, network.size_divisor)
        # Window after window, never as a batch: the bits of a convolution may depend on the size of its batch.
        features = [network.encode_image(window[None]) for window in windows] if self.cache_image_features else None
        rows = [(window, generation) for window in range(len(windows)) for generation in range(self.num_generations)]
        masks = []
        for start in range(0, len(rows), self.max_batch):
            batch = rows[start : start + self.max_batch]
            filled = batch + [batch[-1]] * (self.max_batch - len(batch))

            def image_features(filled: list[tuple[int, int]] = filled) -> torch.Tensor:
                return torch.cat(
                    [features[w] if features else network.encode_image(windows[w, None]) for w, _ in filled]
                )

            streams = [self._stream(origins[w], generation) for w, generation in filled]
            shape = (network.mask_channels, *windows.shape[2:])
            masks.append(self._denoise(network, image_features, streams, shape, windows.device)[: len(batch)])
        kept = (slice(None), slice(None), *(slice(size) for size in spatial))
        generations = torch.cat(masks)[kept]
        generations = generations.reshape(len(windows), self.num_generations, *generations.shape[1:])
        return mask_to_probability(generations.transpose(0, 1))

    def _denoise(
        self,
        network: SegDiffUNet,
        image_features: Callable[[], torch.Tensor],
        streams: Sequence[torch.Generator],
        shape: Sequence[int],
        device: torch.device,
    ) -> torch.Tensor:
        """Sample masks from noise (algorithm 2 of arXiv 2112.00390): the one sampling loop of this package."""

        def noise() -> torch.Tensor:
            return torch.stack([torch.randn(shape, generator=stream) for stream in streams]).to(device)

        features: torch.Tensor | None = None
        x = noise()
        for timestep in self.scheduler.timesteps.tolist():
            if features is None or not self.cache_image_features:
                features = image_features()
            # One timestep for the whole batch, so that its embedding does not depend on the batch either.
            output = network(x, torch.tensor([timestep], device=device), image_features=features)
            step_noise = noise() if self.scheduler.is_stochastic else None
            x, _ = self.scheduler.step(output.float(), timestep, x, noise=step_noise)
        return x

    def _stream(self, origin: tuple[int, ...], generation: int) -> torch.Generator:
        """Return the random stream of one generation in one window; on the CPU, so that all devices see the same."""
        entropy = np.random.SeedSequence([self.seed, generation, *origin]).generate_state(1, np.uint64)[0]
        return torch.Generator().manual_seed(int(entropy) >> 1)


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


def _pad_to_multiple(image: torch.Tensor, divisor: int) -> torch.Tensor:
    """Pad at the far end of each axis so that the network's levels divide the size."""
    padding = [amount for size in reversed(image.shape[2:]) for amount in (0, -size % divisor)]
    return F.pad(image, padding, mode="replicate") if any(padding) else image
