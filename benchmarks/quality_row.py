# SPDX-License-Identifier: Apache-2.0
"""One row of the table of quality: a bundle with weights and settings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from monai_segdiff import ResizeToMatch, TemperatureScaling, flag, load_weights
from monai_segdiff.exceptions import BundleError, CheckpointError

from .bundle import Bundle
from .flips_inferer import FlipsInferer
from .timed_inferer import TimedInferer

__all__ = ["QualityRow"]

OWN_SETTINGS = ("ckpt", "config", "flips")
SHOWN = ("num_inference_steps", "num_generations", "seed", "image_scale", "threshold", "temperature", "window_size")


class QualityRow:
    """Segments images as the evaluation of a bundle does, and brings the probability to a grid that rows share.

    Args:
        name: what the table calls it.
        folder: folder of the bundle.
        settings: entries of the bundle's configs with other values, such as ``{"num_generations": 8}``; ``ckpt``, the
            file of weights (default: the bundle's ``models/model.pt``); ``config``, the name of a further config file
            that goes over ``train`` and ``evaluate``, such as ``"unet"``; and ``flips``: True takes the mean over the
            eight flips and turns of an image.

    Attributes:
        name: as given.
        bundle: the bundle with the settings.
        split: the ``split.json`` beside the weights, which may be missing.
        key: by what its results are found again: the contents of weights, configs and settings.
        facts: what made it, JSON values.

    Raises:
        BundleError: the folder is no bundle, or the settings do not go together.
        CheckpointError: the weights are missing, damaged, or of another network.
        KeyError: a setting of an entry that the configs do not have.
    """

    def __init__(self, name: str, folder: str | Path, settings: Mapping[str, Any]) -> None:
        root, flips = Path(folder).resolve(), flag(settings.get("flips", False))
        if not isinstance(flips, bool):
            raise BundleError(f"Row {name}: flips is {flips!r}, expected true or false.")
        extra = [str(settings["config"])] if "config" in settings else []
        configs = [root / "configs" / f"{part}.json" for part in ("train", "evaluate", *extra)]
        if missing := [path for path in configs if not path.is_file()]:
            raise BundleError(f"Row {name}: {missing[0]} does not exist, expected a config of a bundle.")
        weights = Path(settings.get("ckpt", root / "models" / "model.pt")).resolve()
        if not weights.is_file():
            raise CheckpointError(f"Row {name}: checkpoint {weights} does not exist.")
        changed = {entry: value for entry, value in settings.items() if entry not in OWN_SETTINGS}
        self.name, self.split = name, weights.with_name("split.json")
        self.bundle = Bundle({**changed, "ckpt": str(weights)}, extra, root)
        try:
            inferer = self.bundle.value("inferer")
        except RuntimeError as error:
            # What a setting did wrong is inside of what the parser says.
            raise BundleError(f"Row {name}: its inferer cannot be built: {error.__cause__ or error}") from error
        self._network = self.bundle.value("network").eval()
        load_weights(self._network, weights, self.bundle.value("model_settings"))
        self._inferer = TimedInferer(FlipsInferer(inferer) if flips else inferer)
        # Without its device, which the results are kept for elsewhere.
        written = {entry: value for entry, value in changed.items() if entry != "device"}
        digest = hashlib.sha256(json.dumps(written, sort_keys=True).encode())
        for path in configs:
            digest.update(path.read_bytes())
        self.key = {"weights_sha256": _sha256(weights), "settings_sha256": digest.hexdigest(), "flips": flips}
        # Without a step a mask prior is its base alone.
        used = self._network if inferer.num_calls else self._network.base
        self.facts = {
            "bundle": root.name,
            "settings": {entry: value for entry, value in settings.items() if entry != "device"},
            **{entry: self.bundle.value(entry) for entry in SHOWN},
            "parameters": sum(parameter.numel() for parameter in used.parameters()),
            **self.key,
            "split_sha256": _sha256(self.split) if self.split.is_file() else None,
        }

    def segment(self, entry: Mapping[str, str], size: int) -> tuple[torch.Tensor, float]:
        """Segment one image.

        Args:
            entry: paths of ``image`` and ``label``.
            size: of the grid.

        Returns:
            The probability, float32 ``[1, size, size]`` in [0, 1] on the CPU, and the seconds that the inferer took.
            Where an image has ``size / score_scale`` pixels, these are the bits that the bundle's evaluation scores.

        Raises:
            ImageError: the picture cannot be read.
            AnnotationError: the mask cannot be read, or has not the size of its picture.
            DivergenceError: the network returned NaN.
        """
        data = dict(entry)
        for step in self.bundle.value("validate#preprocessing").transforms:
            data = step(data)
        inputs = torch.as_tensor(data["image"]).as_subclass(torch.Tensor)[None].to(self.bundle.device)
        with torch.no_grad():  # which an ordinary network's inferer leaves to its caller
            found = self._inferer(inputs, self._network).cpu()
        resized = ResizeToMatch()(found[0], torch.empty(1, size, size))
        return TemperatureScaling(self.bundle.value("temperature"))(resized), self._inferer.seconds[-1]


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
