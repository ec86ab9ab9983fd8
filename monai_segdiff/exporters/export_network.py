# SPDX-License-Identifier: Apache-2.0
"""Export of a network by ``torch.export`` or to ONNX, with a parity check of the written files."""

from __future__ import annotations

import copy
import json
import os
import shutil
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.utils import ensure_tuple
from torch import nn
from torch.export import Dim

from ..exceptions import ExportError
from ..networks.nets import MaskPriorUNet, SegDiffUNet
from .exported_network import (
    CONSTANTS,
    MIN_MULTIPLE,
    SETTINGS_FILE,
    ExportedNetwork,
    check_packages,
    check_sizes,
    sha256,
)
from .onnx_file import write_onnx

__all__ = ["export_network"]

Network = SegDiffUNet | MaskPriorUNet
SUFFIXES = {"torch_export": ".pt2", "onnx": ".onnx"}
PARTS = ("encoder", "denoiser")
# What of a network its encoder, and its denoiser, can do without.
UNUSED: dict[type[nn.Module], tuple[tuple[str, ...], tuple[str, ...]]] = {
    SegDiffUNet: (("unet", "mask_encoder"), ("image_encoder", "image_projection")),
    MaskPriorUNet: (("unet", "embedding", "classifier"), ("base", "projection")),
}
# All that an export may hold; the weights of an ONNX file above 2 GB stand beside it.
FILES = {SETTINGS_FILE, *(f"{part}{suffix}" for part in PARTS for suffix in (*SUFFIXES.values(), ".onnx.data"))}
TIMESTEPS = (0, 7, 99, 999)


def export_network(
    network: nn.Module,
    output_dir: str | Path,
    format: str = "torch_export",
    roi_size: Sequence[int] | int | None = None,
    tolerance: float = 1e-4,
    settings: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write image encoder and denoiser as two files, and check that these compute what the network does.

    ``encoder`` maps ``image`` to ``image_features``; ``denoiser`` maps ``x``, ``timesteps`` of shape ``(1,)`` and
    ``image_features`` to ``output``. In both formats the batch may have any size, and each spatial size may be any
    multiple of ``network.size_divisor`` from twice that on. The base of a mask prior is in the encoder, whose result
    holds its logits as well. The sampling loop stays outside: :class:`~monai_segdiff.exporters.ExportedNetwork` is the
    network that the inferers call.

    The written files are loaded again and run at two batch sizes, two sizes and several timesteps. Only if all is well
    do they take the place of an earlier export. The network is copied and left as it is; the export is for inference in
    float32 on the CPU, whatever the network's mode, precision, memory format and device.

    Args:
        network: a :class:`~monai_segdiff.SegDiffUNet` or :class:`~monai_segdiff.MaskPriorUNet`, plain or wrapped for
            distributed training.
        output_dir: folder to write: new, empty, or that of an earlier export. It will hold ``export.json`` and
            ``encoder`` and ``denoiser`` with the suffix ``.pt2`` or ``.onnx``.
        format: ``"torch_export"`` or ``"onnx"``. ONNX needs ``pip install 'monai_segdiff[export]'``.
        roi_size: spatial size to trace and check at, best that of the windows. Default: four times ``size_divisor``.
        tolerance: largest absolute difference allowed between the network and its export. Float32 rounds off about
            1e-6 of the largest value; the default leaves room for wide networks and is below what a mask shows.
        settings: what a user of the weights must know, such as the content of the ``.json`` file beside them; written
            to ``export.json`` as ``weights``.

    Returns:
        The content of ``export.json``: format and versions, SHA-256 of the files, names and shapes of inputs and
        outputs, the constants of the network, and the result of the parity check.

    Raises:
        ExportError: the network cannot be traced, the parity check fails, or the folder holds something else.
        ImportError: the packages for ONNX are not installed.
        TypeError: another network.
        ValueError: an unknown format, a negative tolerance, or a size that the network cannot be exported at.

    Example:
        >>> export_network(network, "export", format="onnx", roi_size=256)["parity"]  # doctest: +SKIP
    """
    inner: Any = getattr(network, "module", network)
    kind = next((kind for kind in UNUSED if isinstance(inner, kind)), None)
    if kind is None:
        raise TypeError(f"network must be one of {[kind.__name__ for kind in UNUSED]}, found {type(inner).__name__}.")
    if format not in SUFFIXES:
        raise ValueError(f"format must be one of {list(SUFFIXES)}, found {format!r}.")
    if not tolerance >= 0:
        raise ValueError(f"tolerance must be at least 0, found {tolerance}.")
    sizes = list(ensure_tuple(4 * inner.size_divisor if roi_size is None else roi_size))
    sizes = sizes * inner.spatial_dims if len(sizes) == 1 else sizes
    if len(sizes) != inner.spatial_dims:
        raise ValueError(f"roi_size must have {inner.spatial_dims} sizes, found {sizes}.")
    check_sizes("roi_size", sizes, inner.size_divisor)
    if format == "onnx":
        check_packages("onnx", "onnxscript", "onnxruntime")
    folder = Path(output_dir).resolve()
    _check_folder(folder)

    inner = copy.deepcopy(inner).to("cpu", torch.float32).eval()
    for parameter in inner.parameters():
        parameter.data = parameter.data.contiguous()
    temporary = folder.with_name(f".{folder.name}-{uuid.uuid4().hex}")
    temporary.mkdir(parents=True)
    try:
        written = _write_parts(inner, UNUSED[kind], temporary, format, sizes)
        written["network"] = {"class": kind.__name__}
        written["network"] |= {name: getattr(inner, name) for name in CONSTANTS[kind.__name__]}
        written |= {"sha256": {path.name: sha256(path) for path in sorted(temporary.iterdir())}}
        _write_settings(temporary, written)
        written["parity"] = _check_parity(inner, ExportedNetwork(temporary), sizes, tolerance)
        written["weights"] = dict(settings or {})
        _write_settings(temporary, written)
        _replace_folder(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return written


class _Encoder(nn.Module):
    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.network.encode_image(image)


class _Denoiser(nn.Module):
    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor, image_features: torch.Tensor) -> torch.Tensor:
        return self.network(x, timesteps, image_features=image_features)


def _without(network: Network, names: Sequence[str]) -> Network:
    """Copy a network without some parts, whose weights would be written although unused; the others are shared."""
    shared = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    part = copy.deepcopy(network, shared)
    for name in names:
        setattr(part, name, nn.Identity())
    return part


def _random_x(network: Network, image: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return what the denoiser may be given for an image."""
    if isinstance(network, SegDiffUNet):
        return torch.randn(len(image), network.mask_channels, *image.shape[2:], generator=generator)
    sizes = [size // network.latent_stride for size in image.shape[2:]]
    return torch.randint(network.num_states, (len(image), 1, *sizes), generator=generator)


def _write_parts(
    network: Network, unused: Sequence[Sequence[str]], folder: Path, format: str, roi_size: list[int]
) -> dict[str, Any]:
    """Write encoder and denoiser; return what ``export.json`` says of them."""
    batch = Dim("batch", min=1)
    sizes = [Dim(f"size_{i}", min=MIN_MULTIPLE) for i in range(network.spatial_dims)]

    def axes(stride: int) -> dict[int, Any]:
        return {0: batch} | {2 + i: network.size_divisor // stride * size for i, size in enumerate(sizes)}

    image = torch.zeros(2, network.image_channels, *roi_size)
    x = _random_x(network, image, torch.Generator())
    with torch.no_grad():
        features = network.encode_image(image)
    latent = axes(getattr(network, "latent_stride", 1))
    tensors = {
        "image": (image, axes(1)),
        "x": (x, latent),
        "timesteps": (torch.zeros(1, dtype=torch.int64), {}),
        "image_features": (features, axes(network.feature_stride)),
        "output": (torch.empty(2, network.mask_channels, *x.shape[2:]), latent),
    }
    written: dict[str, Any] = {"format": format, "torch_version": torch.__version__}
    for part, module, inputs, output in (
        ("encoder", _Encoder(_without(network, unused[0])), ["image"], "image_features"),
        ("denoiser", _Denoiser(_without(network, unused[1])), ["x", "timesteps", "image_features"], "output"),
    ):
        path = folder / f"{part}{SUFFIXES[format]}"
        shapes = {name: _shape(*tensors[name]) for name in (*inputs, output)}
        try:
            with torch.no_grad():
                program = torch.export.export(
                    module.eval(),
                    tuple(tensors[name][0] for name in inputs),
                    dynamic_shapes={name: tensors[name][1] for name in inputs},
                    strict=False,
                )
            if format == "onnx":
                written["opset_version"] = write_onnx(program, path, shapes, output)
            else:
                torch.export.save(program, path)
        except Exception as error:  # the exporters raise many types
            raise ExportError(f"The {part} cannot be exported as {format!r}: {error}") from error
        written[part] = {
            "file": path.name,
            "inputs": {name: shapes[name] for name in inputs},
            "outputs": {output: shapes[output]},
        }
    return written | {"feature_channels": features.shape[1]}


def _shape(example: torch.Tensor, axes: dict[int, Any]) -> list[int | str]:
    return [axes[axis].__name__ if axis in axes else size for axis, size in enumerate(example.shape)]


def _check_parity(network: Network, exported: ExportedNetwork, roi_size: list[int], tolerance: float) -> dict[str, Any]:
    """Compare the written files with the network on random input; return what ``export.json`` says of it."""
    divisor = network.size_divisor
    # Small, of unequal sides, and along no axis the size that was traced.
    other = [divisor * (least if divisor * least != size else least + 1) for least, size in enumerate(roi_size, 2)]
    shapes = [[1, network.image_channels, *roi_size], [3, network.image_channels, *other]]
    generator = torch.Generator().manual_seed(0)
    difference, largest = {"image_features": 0.0, "output": 0.0}, {"image_features": 0.0, "output": 0.0}

    def compare(name: str, found: torch.Tensor, expected: torch.Tensor) -> None:
        differing = (found - expected).abs().max().item()
        difference[name] = max(difference[name], differing)
        largest[name] = max(largest[name], expected.abs().max().item())
        if not differing <= tolerance:  # which NaN is not either
            raise ExportError(
                f"The export does not compute what the network does: {name} of shape {list(expected.shape)} differs by "
                f"{differing:.3g}, more than tolerance={tolerance:g}, among values up to {largest[name]:.3g}."
            )

    for shape in shapes:
        image = torch.randn(shape, generator=generator)
        with torch.no_grad():
            features = network.encode_image(image)
        compare("image_features", exported.encode_image(image), features)
        for timestep in TIMESTEPS:
            x = _random_x(network, image, generator)
            timesteps = torch.tensor([timestep])
            with torch.no_grad():
                output = network(x, timesteps, image_features=features)
            compare("output", exported(x, timesteps, features), output)
    return {
        "tolerance": tolerance,
        "largest_difference": difference,
        "largest_value": largest,
        "timesteps": list(TIMESTEPS),
        "image_shapes": shapes,
    }


def _write_settings(folder: Path, settings: dict[str, Any]) -> None:
    (folder / SETTINGS_FILE).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _check_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise ExportError(f"{folder} is a file; expected a new or empty folder, or that of an earlier export.")
    foreign = sorted({item.name for item in folder.iterdir()} - FILES) if folder.is_dir() else []
    if foreign:
        raise ExportError(
            f"{folder} holds {foreign[:3]}; expected a new or empty folder, or that of an earlier export."
        )


def _replace_folder(new: Path, folder: Path) -> None:
    """Move a folder to its place. An earlier one there is put back if that fails, and else removed."""
    aside = new.with_name(f"{new.name}-old")
    if folder.exists():
        os.replace(folder, aside)
    try:
        os.replace(new, folder)
    except BaseException:
        if aside.exists():
            os.replace(aside, folder)
        raise
    shutil.rmtree(aside, ignore_errors=True)
