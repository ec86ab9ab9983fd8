# SPDX-License-Identifier: Apache-2.0
"""A bundle's network, inferer and validation images, as its own configs say."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from monai.bundle import ConfigParser

from monai_segdiff import (
    SegDiffInferer,
    SegDiffUNet,
    evaluation_datalist,
    exceptions,
    load_weights,
    monuseg_datalist,
)
from monai_segdiff.exceptions import CheckpointError, DatasetError

__all__ = ["Bundle", "Item"]

_OWN_ERRORS = tuple(getattr(exceptions, name) for name in exceptions.__all__)
MONUSEG = Path(__file__).resolve().parents[1] / "bundles" / "monuseg"


class Item(NamedTuple):
    """One image, prepared as for validation, on the CPU.

    Attributes:
        name: file name without suffix.
        image: float32 ``[3, H, W]``, normalised.
        label: bool ``[1, H, W]``.
    """

    name: str
    image: torch.Tensor
    label: torch.Tensor


class Bundle:
    """Builds the parts of a bundle from its configs, so that every figure speaks about the bundle's real defaults.

    Args:
        overrides: values for entries of the configs, as on the bundle's command line:
            ``{"network_def#patch_size": 1}``.
        extra_configs: names of further config files of the bundle, such as ``"paper"``, that go over ``train`` and
            ``evaluate``.
        root: the bundle's folder.

    Raises:
        KeyError: an override of an entry that the configs do not have.

    Example:
        >>> bundle = Bundle({"device": "cpu"})
        >>> bundle.value("score_scale")
        0.512
    """

    def __init__(
        self, overrides: Mapping[str, Any] | None = None, extra_configs: Sequence[str] = (), root: Path = MONUSEG
    ) -> None:
        self.overrides = dict(overrides or {})
        self.extra_configs = tuple(extra_configs)
        self.root = root
        self._parser = self._read({})

    def with_overrides(self, overrides: Mapping[str, Any]) -> Bundle:
        """Return the same bundle with more overrides."""
        return Bundle({**self.overrides, **overrides}, self.extra_configs, self.root)

    def value(self, name: str) -> Any:
        """Return the value of an entry of the configs, all references resolved.

        Errors of this package come as they are; MONAI's parser hands on others than its own inside a ``RuntimeError``.
        """
        try:
            return self._parser.get_parsed_content(name)
        except RuntimeError as error:
            cause: BaseException | None = error
            while cause is not None and not isinstance(cause, _OWN_ERRORS):
                cause = cause.__cause__
            if cause is None:
                raise
            raise cause from None

    def config(self, name: str) -> Any:
        """Return an entry of the configs as it is written."""
        return self._parser.get(name)

    @property
    def device(self) -> torch.device:
        """Device to work on."""
        return torch.device(self.value("device"))

    def network(
        self, weights: str | os.PathLike[str] | None = None, seed: int = 0, channels_last: bool = True
    ) -> SegDiffUNet:
        """Build the network, on the bundle's device and in evaluation mode.

        Args:
            weights: file of weights, loaded strictly. None: random weights.
            seed: seed of random weights.
            channels_last: lay out the weights as the bundle does.

        Raises:
            CheckpointError: the file is missing, damaged, or was written for another network or other settings.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network: SegDiffUNet = self._read({}).get_parsed_content("network_def")
        if weights is not None:
            load_weights(network, Path(weights), self.value("model_settings"))
        layout = torch.channels_last if channels_last else torch.contiguous_format
        return network.eval().to(self.device, memory_format=layout)  # type: ignore[call-overload]

    def inferer(self, **changes: Any) -> SegDiffInferer:
        """Build the inferer of the configs, in the precision in which the bundle's evaluator runs it.

        Args:
            changes: arguments to give it instead; a ``scheduler`` may be an object or a config with ``_target_``.
        """
        parser = self._read({f"inferer#{name}": value for name, value in changes.items()})
        inferer: SegDiffInferer = parser.get_parsed_content("inferer")
        return inferer

    def items(
        self,
        dataset_dir: str | os.PathLike[str],
        weights: Sequence[str | os.PathLike[str]] = (),
        num_images: int | None = None,
    ) -> list[Item]:
        """Prepare the images of a dataset on which none of some networks was trained, both at the network's scale.

        Args:
            dataset_dir: a folder that :func:`monai_segdiff.monuseg_datalist` knows.
            weights: files of weights; the training images of the ``split.json`` beside each are left out.
            num_images: take only the first ones, by name.

        Raises:
            DatasetError: the folder is unusable or no image remains.
        """
        entries = monuseg_datalist(dataset_dir)
        for path in weights:
            kept = {entry["name"] for entry in evaluation_datalist(dataset_dir, Path(path).with_name("split.json"))}
            entries = [entry for entry in entries if entry["name"] in kept]
        if not entries:
            raise DatasetError(f"{dataset_dir}: each image trained one of the networks, expected at least one other.")
        preprocessing = self.with_overrides({"score_scale": "@image_scale"}).value("validate#preprocessing")
        items = []
        for entry in entries[:num_images]:
            prepared = preprocessing(dict(entry))
            image, label = prepared["image"].as_tensor(), prepared["label"].as_tensor()
            items.append(Item(entry["name"], image.float().contiguous(), label > 0))
        return items

    def for_weights(self, weights: str | os.PathLike[str]) -> Bundle:
        """Return the bundle with the prediction type that the ``.json`` beside a file of weights names, if any.

        Raises:
            CheckpointError: that file cannot be read.
        """
        beside = Path(weights).with_suffix(".json")
        if not beside.is_file():
            return self
        try:
            prediction_type = json.loads(beside.read_text(encoding="utf-8")).get("prediction_type")
        except (ValueError, AttributeError) as error:
            raise CheckpointError(f"{beside}: the settings of the weights cannot be read: {error}") from error
        if prediction_type in (None, self.value("prediction_type")):
            return self
        return self.with_overrides({"prediction_type": prediction_type})

    def _read(self, changes: Mapping[str, Any]) -> ConfigParser:
        """Read the configs anew: a parser hands out the same object whenever it is asked for an entry again."""
        names = ("train", "evaluate", *self.extra_configs)
        parser = ConfigParser()
        parser.read_config([str(self.root / "configs" / f"{name}.json") for name in names])
        # Given, because the configs look for the bundle below the present folder.
        changed = {"bundle_root": str(self.root), **self.overrides, **changes}
        for name, value in changed.items():
            parent = name.rpartition("#")[0]
            argument = parent in parser and isinstance(parser[parent], dict) and "_target_" in parser[parent]
            if name not in parser and not (parent and argument):
                raise KeyError(f"Unknown override {name}: there is no such entry in {', '.join(names)} of {self.root}.")
            parser[name] = copy.deepcopy(value)  # a later override may change a part of it
        return parser
