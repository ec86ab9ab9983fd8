# SPDX-License-Identifier: Apache-2.0
"""Import of checkpoints that the released SegDiff code writes."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

from ...exceptions import CheckpointError

__all__ = ["convert_released_state_dict"]

# Names inside a block: released -> MONAI.
RESIDUAL = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1.conv",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2.conv",
    "skip_connection": "skip_connection.conv",
}
FIXED = {
    "input_blocks.0.0": "mask_encoder.conv",
    "time_embed.0": "unet.time_embed.0",
    "time_embed.2": "unet.time_embed.2",
    "out.0": "unet.out.0",
    "out.2": "unet.out.2.conv",
}


def convert_released_state_dict(
    state_dict: Mapping[str, torch.Tensor], num_res_blocks: int, num_heads: int = 4
) -> dict[str, torch.Tensor]:
    """Rename and reshape the weights of a released SegDiff checkpoint for :class:`~monai_segdiff.SegDiffUNet`.

    The file to convert is the one of the averaged weights (``ema_val_*.pt``); its neighbour ``args.json`` tells the
    architecture. The number of levels is read from the keys.

    Args:
        state_dict: the released weights, as loaded with ``torch.load(path, weights_only=True)``.
        num_res_blocks: residual blocks in each level (3 in all published networks).
        num_heads: attention heads (4 in all published networks).

    Returns:
        A state dict that ``SegDiffUNet.load_state_dict`` accepts with ``strict=True``.

    Raises:
        CheckpointError: a key that the released network does not have; the message names it.

    Example:
        >>> weights = torch.load("ema_val_0.9999_075000.pt", weights_only=True)  # doctest: +SKIP
        >>> net.load_state_dict(convert_released_state_dict(weights, num_res_blocks=3))  # doctest: +SKIP
    """
    blocks = [int(match[1]) for key in state_dict if (match := re.match(r"input_blocks\.(\d+)\.", key))]
    if not blocks:
        raise CheckpointError("Not a released SegDiff checkpoint: no key starts with 'input_blocks.'.")
    # Blocks 0 (mask encoder), then for each level num_res_blocks and, except for the last, one downsampling.
    num_levels = (max(blocks) + 1) // (num_res_blocks + 1)

    converted: dict[str, torch.Tensor] = {}
    for key, value in state_dict.items():
        prefix, parameter = key.rsplit(".", 1)
        if prefix.startswith("rrdb."):
            converted[f"image_encoder.{prefix.removeprefix('rrdb.')}.{parameter}"] = value
        elif prefix in FIXED:
            converted[f"{FIXED[prefix]}.{parameter}"] = value
        else:
            block, inner = _locate(prefix, num_res_blocks, num_levels)
            if inner == "qkv":
                converted |= _split_qkv(f"{block}.attn", parameter, value, num_heads)
            elif inner == "proj_out":
                converted[f"{block}.attn.out_proj.{parameter}"] = value.squeeze(-1)
            else:
                inside = RESIDUAL.get(inner, inner)
                converted[f"{block}.{inside}.{parameter}" if inside else f"{block}.{parameter}"] = value
    return converted


def _locate(prefix: str, num_res_blocks: int, num_levels: int) -> tuple[str, str]:
    """Return the MONAI name of the block that a released prefix lies in, and the rest of the name inside it."""
    per_level = num_res_blocks + 1
    if match := re.fullmatch(r"middle_block\.([012])\.(.+)", prefix):
        return f"unet.middle_block.{('resnet_1', 'attention', 'resnet_2')[int(match[1])]}", match[2]
    if match := re.fullmatch(r"input_blocks\.(\d+)\.([01])\.(.+)", prefix):
        level, position = divmod(int(match[1]) - 1, per_level)
        if match[3] == "op":
            return f"unet.down_blocks.{level}.downsampler.op.conv", ""
        return f"unet.down_blocks.{level}.{('resnets', 'attentions')[int(match[2])]}.{position}", match[3]
    if match := re.fullmatch(r"output_blocks\.(\d+)\.([012])\.(.+)", prefix):
        level, position = divmod(int(match[1]), per_level)
        if match[3] == "conv":
            return f"unet.up_blocks.{level}.upsampler.postconv.conv", ""
        if level < num_levels:
            return f"unet.up_blocks.{level}.{('resnets', 'attentions')[int(match[2])]}.{position}", match[3]
    raise CheckpointError(f"Not a released SegDiff checkpoint: unexpected key prefix {prefix!r}.")


def _split_qkv(name: str, parameter: str, value: torch.Tensor, num_heads: int) -> dict[str, torch.Tensor]:
    """Split the fused projection, laid out [head][q|k|v][dim], into three linear layers."""
    if parameter == "weight":
        value = value.squeeze(-1)
    heads = value.reshape(num_heads, 3, -1, *value.shape[1:])
    return {f"{name}.to_{part}.{parameter}": heads[:, i].flatten(0, 1) for i, part in enumerate("qkv")}
