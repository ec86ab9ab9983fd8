# SPDX-License-Identifier: Apache-2.0
"""What the commands that sample the same images with several networks share."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from monai_segdiff import SegDiffInferer

from .arm import Arm
from .bundle import Bundle, Item
from .result_store import ResultStore

__all__ = ["Setting", "Study"]

# What of the bundle decides about a result, besides the weights, the image, the steps and the generations.
VALUES = (
    *("image_scale", "image_mean", "image_std", "window_size", "window_overlap", "window_blending", "window_mode"),
    *("threshold", "num_train_timesteps", "stop_early", "amp", "seed"),
)
CONFIGS = ("network_def", "scheduler", "inferer")


class Setting(NamedTuple):
    """Steps of the sampler and number of generations."""

    steps: int
    generations: int


class Study:
    """Results of every file of weights on every image, in one file; what is already there is not computed again.

    A result belongs to the contents of the weights and of the image, not to their names, so that a study may be
    continued with more weights, images and settings.

    Args:
        path: JSON file of the results, see :class:`~benchmarks.result_store.ResultStore`; continued if it exists.
        bundle: the bundle; its sampler and windows are used.
        dataset_dir: dataset to sample; training images that a ``split.json`` beside any of the weights names are left
            out.
        weights: name and file of each network. Where the ``.json`` beside one says what it predicts, that holds.
        num_images: take only the first images.
        key: what else tells results apart.

    Attributes:
        arms: the networks, in the order given.
        items: the images.

    Raises:
        CheckpointError: weights are missing, damaged, or of another network.
        DatasetError: the dataset or earlier results cannot be used.
    """

    def __init__(
        self,
        path: Path,
        bundle: Bundle,
        dataset_dir: str | Path,
        weights: dict[str, str],
        num_images: int | None = None,
        **key: int,
    ) -> None:
        self.arms = [Arm.load(bundle, name, file) for name, file in weights.items()]
        self.items = bundle.items(dataset_dir, list(weights.values()), num_images)
        self._digests = [_digest(item) for item in self.items]
        self._key = key
        protocol = {name: bundle.value(name) for name in VALUES} | {name: bundle.config(name) for name in CONFIGS}
        names = ("sha256", "prediction_type", "image_sha256", *Setting._fields, *key)
        self._store = ResultStore(path, {**protocol, "device": bundle.device.type}, names)

    def run(
        self,
        settings: Sequence[Setting],
        sample: Callable[[SegDiffInferer, torch.Tensor, nn.Module], torch.Tensor],
        score: Callable[[np.ndarray, np.ndarray, Setting], dict[str, Any]],
    ) -> None:
        """Compute the results that are missing. Each image is encoded once for all settings.

        Args:
            settings: what is wanted. An image is sampled once for each number of steps, with the largest number of
                generations that is missing.
            sample: a method of the inferer, which returns ``[K, 1, 1, H, W]``.
            score: gives the result of a setting from the samples ``[K, H, W]``, the truth, boolean ``[H, W]``, and the
                setting.
        """
        work = [(arm, index, self._missing(arm, index, settings)) for arm in self.arms for index in self._indices]
        total = sum(_passes(group) for _, _, groups in work for group in groups)
        inferer = cache(_inferer)
        # Left on the screen unless another bar is above it.
        with tqdm(total=total, unit="pass", desc="sampling", leave=None) as progress:
            for arm, index, groups in work:
                item = self.items[index]
                progress.set_postfix_str(f"{arm.name}, {item.name}")
                for group in groups:
                    image = item.image[None].to(arm.bundle.device)
                    found = sample(inferer(arm, *max(group)), image, arm.network)[:, 0, 0].cpu().numpy()
                    for setting in group:
                        result = score(found, item.label[0].numpy(), setting)
                        names = {"weights": arm.name, "name": item.name}
                        self._store.add({**names, **self._key_of(arm, index, setting), **result})
                    progress.update(_passes(group))
                arm.network.forget()

    def results(self, arm: Arm, setting: Setting) -> list[dict[str, Any]]:
        """Return the results of one network under one setting, for each image, once :meth:`run` has been through."""
        rows = []
        for index in self._indices:
            row = self._store.find(**self._key_of(arm, index, setting))
            assert row is not None, "all that was missing has been computed"
            rows.append(row)
        return rows

    @property
    def _indices(self) -> range:
        return range(len(self.items))

    def _missing(self, arm: Arm, index: int, settings: Sequence[Setting]) -> list[list[Setting]]:
        """Return what is still to be computed, each list with one number of steps, from one sampling of the image."""
        missing = [one for one in settings if self._store.find(**self._key_of(arm, index, one)) is None]
        return [[one for one in missing if one.steps == steps] for steps in sorted({one.steps for one in missing})]

    def _key_of(self, arm: Arm, index: int, setting: Setting) -> dict[str, Any]:
        predicts = arm.bundle.value("prediction_type")
        of_arm = {"sha256": arm.sha256, "prediction_type": predicts, "image_sha256": self._digests[index]}
        return {**of_arm, **setting._asdict(), **self._key}


def _inferer(arm: Arm, steps: int, generations: int) -> SegDiffInferer:
    return arm.bundle.inferer(num_inference_steps=steps, num_generations=generations)


def _passes(group: Sequence[Setting]) -> int:
    steps, generations = max(group)
    return steps * generations


def _digest(item: Item) -> str:
    return hashlib.sha256(item.image.numpy().tobytes() + item.label.numpy().tobytes()).hexdigest()[:16]
