# SPDX-License-Identifier: Apache-2.0
"""Command ``python -m monai_segdiff.exporters``."""

from __future__ import annotations

import argparse
import json
import logging
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from ..exceptions import CheckpointError, ExportError
from ..handlers import load_weights
from .export_network import SUFFIXES, export_network
from .exported_network import sha256

__all__ = ["main"]

DESCRIPTION = """\
Export the network of a bundle, with its weights, as two files that need none of this package's code: the image encoder
(with the base segmentor, if there is one) and the denoiser. The files are checked against the network before they take
the place of an earlier export.

example:
  python -m monai_segdiff.exporters export --bundle bundles/monuseg --format onnx
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status: 0, or 1 after an error in what was given."""
    options = _parser().parse_args(arguments)
    bundle = Path(options.bundle)
    ckpt = bundle / "models" / "model.pt" if options.ckpt is None else Path(options.ckpt)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what the exporters say of their own future
            config = _read_config([bundle / "configs" / "inference.json", *map(Path, options.config_file)])
            network = _parse(config, "network_def")
            load_weights(network, ckpt, _parse(config, "model_settings") if "model_settings" in config else {})
            beside = ckpt.with_suffix(".json")
            settings = json.loads(beside.read_text(encoding="utf-8")) if beside.is_file() else {}
            written = export_network(
                network,
                options.output_dir,
                format=options.format,
                roi_size=options.roi_size or (_parse(config, "window_size") if "window_size" in config else None),
                tolerance=options.tolerance,
                settings={"file": ckpt.name, "sha256": sha256(ckpt), **settings},
            )
    except (CheckpointError, ExportError, ImportError, OSError, TypeError, ValueError) as error:
        line, _, _ = str(error).partition("\n")
        print(f"{type(error).__name__}: {line}", file=sys.stderr)
        return 1
    print(_summary(Path(options.output_dir), written))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m monai_segdiff.exporters",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("output_dir", help="folder to write: new, empty, or that of an earlier export")
    parser.add_argument("--bundle", required=True, help="bundle folder; its configs/inference.json names the network")
    parser.add_argument("--ckpt", help="weights, default: models/model.pt of the bundle")
    parser.add_argument(
        "--config_file",
        nargs="+",
        default=[],
        help="config files that the weights were trained with, over inference.json: bundles/monuseg/configs/paper.json",
    )
    parser.add_argument(
        "--format",
        choices=list(SUFFIXES),
        default="torch_export",
        help="default: torch_export; onnx needs: pip install 'monai_segdiff[export]'",
    )
    parser.add_argument(
        "--roi_size",
        nargs="+",
        type=int,
        help="spatial size to trace and check at, one number or one for each axis; other sizes work as well; "
        "default: the bundle's window_size",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=1e-4,
        help="largest absolute difference allowed between the network and its export; default: 1e-4",
    )
    return parser


def _read_config(files: Sequence[Path]) -> ConfigParser:
    for file in files:
        if not file.is_file():
            raise ExportError(f"{file} does not exist; expected a bundle folder with configs/inference.json.")
    config = ConfigParser()
    try:
        config.read_config([str(file) for file in files])
    except ValueError as error:
        raise ExportError(f"{', '.join(map(str, files))}: cannot be read: {error}") from error
    if "network_def" not in config:
        raise ExportError(f"{files[0]} has no entry network_def.")
    return config


def _parse(config: ConfigParser, name: str) -> Any:
    try:
        return config.get_parsed_content(name)
    except Exception as error:  # the parser raises what the entry raises, or its own
        raise ExportError(f"Entry {name} of the configs cannot be built: {error.__cause__ or error}") from error


def _summary(folder: Path, written: dict[str, Any]) -> str:
    parity, onnx = written["parity"], written["format"] == "onnx"
    version = f"opset {written['opset_version']}" if onnx else f"PyTorch {written['torch_version']}"
    lines = [f"Wrote {folder} ({written['format']}, {version}), described in {folder / 'export.json'}:"]
    for part in (written["encoder"], written["denoiser"]):
        inputs = ", ".join(f"{name} {_shape(shape)}" for name, shape in part["inputs"].items())
        outputs = ", ".join(f"{name} {_shape(shape)}" for name, shape in part["outputs"].items())
        megabytes = (folder / part["file"]).stat().st_size / 1e6
        lines.append(f"  {part['file']} ({megabytes:.1f} MB): {inputs} -> {outputs}")
    differences = ", ".join(
        f"{name} {value:.1e} (values up to {parity['largest_value'][name]:.2g})"
        for name, value in parity["largest_difference"].items()
    )
    lines.append(f"Largest differences from the network: {differences}; tolerance {parity['tolerance']:g}.")
    lines += [
        "Sample with it:",
        "  from monai_segdiff.exporters import ExportedNetwork",
        f"  network = ExportedNetwork({str(folder)!r})  # the network of the bundle's inferer",
        "Or load the files alone:",
        *(
            f"  {name} = "
            + (f"onnxruntime.InferenceSession({path!r})" if onnx else f"torch.export.load({path!r}).module()")
            for name in ("encoder", "denoiser")
            for path in [str(folder / written[name]["file"])]
        ),
    ]
    return "\n".join(lines)


def _shape(shape: Sequence[int | str]) -> str:
    return f"[{', '.join(map(str, shape))}]"


if __name__ == "__main__":
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns that torchvision is not installed
    sys.exit(main())
