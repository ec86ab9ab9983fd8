# SPDX-License-Identifier: Apache-2.0
"""An export behind the interface of the network that it was made from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from monai.utils import convert_to_tensor
from torch import nn

from ..exceptions import ExportError
from ..networks.nets import MaskPriorUNet, SegDiffUNet

__all__ = ["ExportedNetwork"]

SETTINGS_FILE = "export.json"
# What `torch.export` takes as given of a size, namely that it is not 1, must hold down to the coarsest level.
MIN_MULTIPLE = 2
# Attributes of a network that its inferer, or the export of it, reads.
CONSTANTS: dict[str, tuple[str, ...]] = {
    SegDiffUNet.__name__: ("spatial_dims", "image_channels", "mask_channels", "feature_stride", "size_divisor"),
}
CONSTANTS[MaskPriorUNet.__name__] = (
    *CONSTANTS[SegDiffUNet.__name__],
    *("latent_stride", "condition_channels", "num_classes", "num_states"),
)


class ExportedNetwork(nn.Module):
    """Encoder and denoiser that :func:`~monai_segdiff.exporters.export_network` wrote, as a network to sample with.

    It serves as the ``network`` of :class:`~monai_segdiff.SegDiffInferer`, but not with its ``compile``, or of
    :class:`~monai_segdiff.MaskPriorInferer`: of the one that the network was for. It computes on the CPU and without
    gradients; input from elsewhere is brought there, and the result back. It has no parameters.

    Load only exports that you trust: the checksums tell damage, not intent.

    Args:
        folder: the folder of the export.

    Raises:
        ExportError: the export is missing, incomplete or damaged, or this version of PyTorch cannot read it.
        ImportError: the packages that run the format are not installed.

    Example:
        >>> network = ExportedNetwork("export")  # doctest: +SKIP
        >>> probability = SegDiffInferer(scheduler, roi_size=256)(image, network)  # doctest: +SKIP
    """

    spatial_dims: int
    image_channels: int
    mask_channels: int
    feature_stride: int
    size_divisor: int
    latent_stride: int = 1
    num_states: int | None = None  # of a mask prior

    def __init__(self, folder: str | Path) -> None:
        super().__init__()
        folder = Path(folder)
        self.settings = _read_settings(folder)
        for name, expected in self.settings["sha256"].items():
            _verify(folder / name, expected)
        constants = self.settings["network"]
        for name in CONSTANTS[constants["class"]]:
            setattr(self, name, constants[name])
        if constants["class"] == MaskPriorUNet.__name__:  # what its inferer asks for beside, and needs no weights
            for method in (MaskPriorUNet.base_logits, MaskPriorUNet.to_latent, MaskPriorUNet.upsample):
                setattr(self, method.__name__, MethodType(method, self))
        self.feature_channels: int = self.settings["feature_channels"]
        load = {"torch_export": _load_torch_export, "onnx": _load_onnx}.get(self.settings["format"])
        if load is None:
            raise ExportError(f"{folder / SETTINGS_FILE}: unknown format {self.settings['format']!r}.")
        # Functions, not submodules: an exported program refuses `eval()`, which engines call.
        self._encode, self._denoise = (
            load(folder / self.settings[part]["file"], self.settings) for part in ("encoder", "denoiser")
        )

    def encode_image(self, image: torch.Tensor) -> torch.Tensor:
        """Compute the image features, which hold for all timesteps and generations.

        Args:
            image: ``[B, image_channels, *spatial]``.

        Returns:
            ``[B, feature_channels, *(spatial / feature_stride)]``, float32.

        Raises:
            ValueError: wrong dimensions or channels, or a size that is too small or that the levels cannot divide.
        """
        self._check("image", image, self.image_channels)
        return self._encode(_plain(image)).to(image.device)

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor, image_features: torch.Tensor) -> torch.Tensor:
        """Predict what the network was trained to: noise, clean mask or velocity, or the logits of clean labels.

        Args:
            x: noisy mask ``[B, mask_channels, *spatial]``; of a mask prior, noisy labels
                ``[B, 1, *(spatial / latent_stride)]`` in 0..num_states - 1.
            timesteps: one whole number for the batch, shape ``(1,)``, 0 the cleanest.
            image_features: result of :meth:`encode_image`.

        Returns:
            ``[B, mask_channels, *spatial]`` or ``[B, mask_channels, *(spatial / latent_stride)]``, float32.

        Raises:
            ValueError: wrong shapes, timesteps that are not one whole number, or labels that the network does not know.
        """
        self._check("x", x, self.mask_channels if self.num_states is None else 1, self.latent_stride)
        sizes = [size * self.latent_stride // self.feature_stride for size in x.shape[2:]]
        expected = [len(x), self.feature_channels, *sizes]
        if list(image_features.shape) != expected:
            raise ValueError(f"image_features must have shape {expected}, found {list(image_features.shape)}.")
        timesteps = convert_to_tensor(timesteps, device="cpu", track_meta=False)
        if timesteps.shape != (1,) or timesteps != timesteps.long():
            raise ValueError(f"timesteps must be one whole number of shape [1], found {timesteps.tolist()}.")
        plain = _plain(x)
        if self.num_states is not None:
            labels = plain.long()
            if not (torch.equal(labels.float(), plain) and labels.min() >= 0 and labels.max() < self.num_states):
                raise ValueError(f"x must hold labels 0..{self.num_states - 1}, found {plain.unique()[:9].tolist()}.")
            plain = labels
        return self._denoise(plain, timesteps.long(), _plain(image_features)).to(x.device)

    def _check(self, name: str, tensor: torch.Tensor, channels: int, stride: int = 1) -> None:
        if tensor.ndim != self.spatial_dims + 2 or tensor.shape[1] != channels:
            raise ValueError(
                f"{name} must have shape [B, {channels}, {self.spatial_dims} spatial sizes], "
                f"found {list(tensor.shape)}."
            )
        check_sizes(f"Spatial sizes of {name}", list(tensor.shape[2:]), self.size_divisor // stride)


def check_sizes(name: str, sizes: list[int], divisor: int) -> None:
    """Check that an exported network can work at these sizes.

    Raises:
        ValueError: it cannot; the message says what would do.
    """
    fitting = [max(-(-size // divisor), MIN_MULTIPLE) * divisor for size in sizes]
    if sizes != fitting:
        raise ValueError(
            f"{name} must be multiples of {divisor}, at least {MIN_MULTIPLE * divisor}, found {sizes}; "
            f"{fitting} would do."
        )


def check_packages(*names: str) -> None:
    """Check that packages are installed.

    Raises:
        ImportError: some are not; the message says how to install them.
    """
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise ImportError(f"Format 'onnx' needs {', '.join(missing)}: pip install 'monai_segdiff[export]'")


def sha256(path: Path) -> str:
    """Return the checksum of a file as hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _read_settings(folder: Path) -> dict[str, Any]:
    path = folder / SETTINGS_FILE
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ExportError(f"{folder} holds no export: {path} does not exist.") from error
    except (OSError, ValueError) as error:
        raise ExportError(f"{path}: the settings of the export cannot be read: {error}") from error
    known = isinstance(settings, dict) and {"format", "sha256", "network", "encoder", "denoiser"} <= settings.keys()
    if not known or settings["network"].get("class") not in CONSTANTS:
        raise ExportError(f"{path} is not the settings of an export, or another version wrote it: export again.")
    return settings


def _verify(path: Path, expected: str) -> None:
    if not path.is_file():
        raise ExportError(f"{path} does not exist, but {SETTINGS_FILE} lists it: the export is incomplete.")
    found = sha256(path)
    if found != expected:
        raise ExportError(
            f"{path} is damaged or belongs to another export: expected SHA-256 {expected} as in {SETTINGS_FILE}, "
            f"found {found}."
        )


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    # Under autocast the features may come in half precision, from a GPU's engine on another device.
    return convert_to_tensor(tensor.detach(), dtype=torch.float32, device="cpu", track_meta=False)


def _load_torch_export(path: Path, settings: dict[str, Any]) -> Callable[..., torch.Tensor]:
    try:
        module = torch.export.load(path).module()
    except Exception as error:  # the checksum is right, so it is the version: what is raised then depends on it
        raise ExportError(
            f"{path}, written by PyTorch {settings['torch_version']}, cannot be read by {torch.__version__}: {error}"
        ) from error

    def run(*inputs: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return module(*inputs)

    return run


def _load_onnx(path: Path, settings: dict[str, Any]) -> Callable[..., torch.Tensor]:
    check_packages("onnxruntime")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ExportError(f"{path} cannot be read by ONNX Runtime {onnxruntime.__version__}: {error}") from error
    names = [node.name for node in session.get_inputs()]

    def run(*inputs: torch.Tensor) -> torch.Tensor:
        feed = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
        return torch.from_numpy(session.run(None, feed)[0])

    return run
