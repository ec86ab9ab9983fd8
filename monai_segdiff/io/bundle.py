# SPDX-License-Identifier: Apache-2.0
"""A bundle of this project, opened for segmentation."""

from __future__ import annotations

import copy
import functools
import hashlib
import json
import operator
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from monai.bundle import ConfigParser
from monai.transforms import Compose, LoadImaged, Transform
from torch import nn

from ..exceptions import BundleError
from ..handlers.strict_checkpoint_loader import load_weights
from ..inferers.generation_inferer import GenerationInferer

__all__ = ["OpenedBundle"]

NEEDED = ("network_def", "network", "inferer", "preprocessing", "restore", "make_mask")
ADJUSTABLE = ("num_inference_steps", "num_generations", "seed")


class BundleTransforms(NamedTuple):
    """The steps of a bundle around its inferer.

    Attributes:
        load: load a file.
        prepare: from a loaded ``image`` to the network's input.
        restore: from what the inferer gives, as ``pred``, to a probability on the grid of the image.
        make_mask: from a probability ``pred`` to class indices.
    """

    load: list[Any]
    prepare: list[Any]
    restore: list[Any]
    make_mask: list[Any]


class OpenedBundle:
    """Network with weights, transforms and inferers of a bundle, as its ``configs/inference.json`` describes them.

    A bundle is code: what its configs say after ``$`` is run. The weights are not.

    Args:
        path: folder of the bundle.
        device: where the network goes.

    Attributes:
        root: absolute path of the folder.
        device: where the network is.
        name: name of the folder.
        version: version in its metadata.
        modality: kind of image in its metadata, as ``"MR"``.
        labels: names of the foreground classes by their index.
        metadata: the whole metadata.
        weights_sha256: SHA-256 of the file of the weights.
        config_sha256: SHA-256 of ``configs/inference.json``.
        network: in eval mode, with the weights.
        make_instances: transform from a probability ``pred`` to separate objects, or None.

    Raises:
        BundleError: the folder is missing or incomplete, or an entry of its configs cannot be built.
        CheckpointError: the weights are missing, damaged, or of another network.
    """

    def __init__(self, path: str | os.PathLike[str], device: str) -> None:
        root = Path(path).expanduser().resolve()
        inference, metadata = (root / "configs" / f"{name}.json" for name in ("inference", "metadata"))
        self.root, self.device, self.name = root, device, root.name
        self.metadata = _read(metadata)
        self._config = _read(inference)
        self._config |= {"bundle_root": str(root), "device": device}
        missing = [name for name in (*NEEDED, *ADJUSTABLE) if name not in self._config]
        if missing:
            raise BundleError(f"{inference}: lacks {', '.join(missing)}; expected a bundle of monai_segdiff.")
        try:
            self.version = str(self.metadata["version"])
            data_format = self.metadata["network_data_format"]
            self.modality = str(next(iter(data_format["inputs"].values())).get("modality", ""))
            classes = next(iter(data_format["outputs"].values()))["channel_def"]
            self.labels = {int(index): name for index, name in classes.items() if name.lower() != "background"}
        except (AttributeError, KeyError, StopIteration, TypeError, ValueError) as error:
            raise BundleError(
                f"{metadata}: has no usable version or network_data_format ({type(error).__name__}: {error}); "
                "expected a bundle's metadata."
            ) from error
        parser = self._parser()
        self.network = self._built(parser, "network")
        weights = Path(self._built(parser, "ckpt") if "ckpt" in self._config else root / "models" / "model.pt")
        settings = self._built(parser, "model_settings") if "model_settings" in self._config else {}
        self.weights_sha256 = _load(self.network, weights, settings)
        self.config_sha256 = _sha256(inference)
        self.network.eval()
        steps = _flat(self._built(parser, "preprocessing"))
        count = sum(isinstance(step, LoadImaged) for step in steps)
        if not all(isinstance(step, LoadImaged) for step in steps[:count]):
            raise BundleError(f"Bundle {self.name}: loads between other steps of preprocessing; expected it first.")
        restore, make_mask = (_flat(self._built(parser, name)) for name in ("restore", "make_mask"))
        self._transforms = BundleTransforms(steps[:count], steps[count:], restore, make_mask)
        has_instances = "make_instances" in self._config
        self.make_instances = self._built(parser, "make_instances") if has_instances else None
        self._lock = threading.Lock()
        self._cached = functools.lru_cache(maxsize=32)(self._make_inferer)
        self.inferer()  # what is wrong with the settings shows now

    def inferer(
        self,
        num_inference_steps: int | None = None,
        num_generations: int | None = None,
        seed: int | None = None,
        max_batch: int | None = None,
    ) -> GenerationInferer:
        """Return the bundle's inferer with other settings; None keeps the bundle's. It may be shared by threads.

        Raises:
            TypeError: a setting that is no whole number.
            ValueError: a setting out of range.
        """
        # Plain numbers alone: the parser would run a string, and to the cache 4.0 and True are 4 and 1.
        settings = (
            _whole("num_inference_steps", num_inference_steps),
            _whole("num_generations", num_generations),
            _whole("seed", seed),
            _whole("max_batch", max_batch),
        )
        with self._lock:  # the parser keeps state
            return self._cached(*settings)

    def transforms(self) -> BundleTransforms:
        """Return the steps around the inferer, for one image: MONAI's transforms are not made for several threads."""
        return copy.deepcopy(self._transforms)

    def _make_inferer(
        self, num_inference_steps: int | None, num_generations: int | None, seed: int | None, max_batch: int | None
    ) -> GenerationInferer:
        parser = self._parser()
        for name, value in zip(ADJUSTABLE, (num_inference_steps, num_generations, seed), strict=True):
            if value is not None:
                parser[name] = value
        if max_batch is not None:
            parser["inferer#max_batch"] = max_batch
        return self._built(parser, "inferer")

    def _parser(self) -> ConfigParser:
        return ConfigParser(copy.deepcopy(self._config))

    def _built(self, parser: ConfigParser, name: str) -> Any:
        try:
            return parser.get_parsed_content(name)
        except Exception as error:
            # The parser wraps what the component itself has raised.
            cause = error.__cause__ or error
            while cause.__cause__ is not None:
                cause = cause.__cause__
            if isinstance(cause, (ValueError, TypeError)) and name == "inferer":
                raise cause from error
            raise BundleError(f"Bundle {self.name}: its entry {name} cannot be built: {cause}") from error


def _flat(transform: Transform | Compose) -> list[Any]:
    """The single steps: ``Compose`` would wrap their errors."""
    return list(transform.flatten().transforms) if isinstance(transform, Compose) else [transform]


def _load(network: nn.Module, weights: Path, settings: Mapping[str, Any]) -> str:
    """Load the weights and return the hash of their file, also if a training publishes others meanwhile."""
    while True:
        before = _sha256(weights) if weights.is_file() else ""
        load_weights(network, weights, settings)
        if _sha256(weights) == before:
            return before


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _whole(name: str, value: Any) -> int | None:
    if value is None:
        return None
    try:
        if isinstance(value, bool):
            raise TypeError("a bool counts nothing")
        number = operator.index(value)
    except TypeError as error:
        raise TypeError(f"{name} is {value!r}; expected a whole number.") from error
    if name == "seed" and number >= 2**32:
        raise ValueError(f"seed is {number}; expected a number below 2**32.")
    return number


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise BundleError(f"{path}: does not exist; expected a bundle folder with configs, models and weights.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BundleError(f"{path}: cannot be read as JSON ({error}).") from error
    if not isinstance(content, Mapping):
        raise BundleError(f"{path}: holds a {type(content).__name__}; expected a JSON object.")
    return dict(content)
