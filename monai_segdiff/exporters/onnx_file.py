# SPDX-License-Identifier: Apache-2.0
"""An exported program as an ONNX file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch.export import ExportedProgram

__all__ = ["write_onnx"]


def write_onnx(program: ExportedProgram, path: Path, shapes: Mapping[str, Sequence[int | str]], output: str) -> int:
    """Write a program as ONNX.

    Args:
        program: what ``torch.export.export`` returns.
        path: the file to write.
        shapes: of each input, in order, and then of the output; names stand for sizes that may vary.
        output: name of the output.

    Returns:
        The version of the operator set.
    """
    from onnxscript import ir

    inputs = [name for name in shapes if name != output]
    program = program.run_decompositions({torch.ops.aten.adaptive_avg_pool3d.default: _average_blocks})
    converted = torch.onnx.export(program, dynamo=True, verbose=False, input_names=inputs, output_names=[output])
    assert converted is not None
    graph = converted.model.graph
    for value, shape in zip((*graph.inputs, *graph.outputs), shapes.values(), strict=True):
        value.shape = ir.Shape(shape)  # the conversion drops the names of the sizes
    converted.save(path)
    return converted.model.opset_imports[""]


def _average_blocks(x: torch.Tensor, output_size: Sequence[int]) -> torch.Tensor:
    # The converter knows the adaptive pooling of volumes for fixed sizes only, but where each voxel of the result is
    # the mean of one block it is the ordinary pooling.
    blocks = [size // new for size, new in zip(x.shape[-3:], output_size, strict=True)]
    if any(size != new * block for size, new, block in zip(x.shape[-3:], output_size, blocks, strict=True)):
        raise ValueError(f"Sizes {list(x.shape[-3:])} are no multiples of {list(output_size)}.")
    return torch.ops.aten.avg_pool3d(x, [int(block) for block in blocks])
