# SPDX-License-Identifier: Apache-2.0
"""A second, plain implementation of the published network, with the parameter names of the released checkpoints.

Written from the paper and from the layout of those checkpoints, as a reference for the parity tests. It computes
straight from a dictionary of weights, in the order of the published description.
"""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F

Weights = dict[str, torch.Tensor]


class ReleasedNetwork:
    """eps(x, t, image) for random weights; ``widths`` per level, attention where ``attention`` says so."""

    def __init__(self, widths: list[int], attention: list[bool], num_res_blocks: int, num_rrdb: int, seed: int) -> None:
        self.widths, self.attention, self.res, self.rrdb = widths, attention, num_res_blocks, num_rrdb
        self.generator = torch.Generator().manual_seed(seed)
        self.weights: Weights = {}
        self.recording = True
        # The first pass creates every weight in the order of use.
        size = 2 ** len(widths)
        self(torch.zeros(1, 1, size, size), torch.zeros(1), torch.zeros(1, 3, size, size))
        self.recording = False

    def weight(self, name: str, *shape: int, scale: float, around: float = 0.0) -> torch.Tensor:
        if self.recording and name not in self.weights:
            self.weights[name] = around + scale * torch.randn(shape, generator=self.generator)
        return self.weights[name]

    def conv(self, x: torch.Tensor, name: str, out: int, kernel: int = 3, stride: int = 1) -> torch.Tensor:
        scale = 1 / math.sqrt(x.shape[1] * kernel**2)
        weight = self.weight(f"{name}.weight", out, x.shape[1], kernel, kernel, scale=scale)
        return F.conv2d(x, weight, self.weight(f"{name}.bias", out, scale=0.1), stride, kernel // 2)

    def linear(self, x: torch.Tensor, name: str, out: int) -> torch.Tensor:
        weight = self.weight(f"{name}.weight", out, x.shape[1], scale=1 / math.sqrt(x.shape[1]))
        return F.linear(x, weight, self.weight(f"{name}.bias", out, scale=0.1))

    def norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        weight = self.weight(f"{name}.weight", x.shape[1], scale=0.1, around=1.0)
        return F.group_norm(x, 32, weight, self.weight(f"{name}.bias", x.shape[1], scale=0.1), eps=1e-5)

    def residual(self, x: torch.Tensor, emb: torch.Tensor, name: str, out: int) -> torch.Tensor:
        h = self.conv(F.silu(self.norm(x, f"{name}.in_layers.0")), f"{name}.in_layers.2", out)
        h = h + self.linear(F.silu(emb), f"{name}.emb_layers.1", out)[:, :, None, None]
        h = self.conv(F.silu(self.norm(h, f"{name}.out_layers.0")), f"{name}.out_layers.3", out)
        return h + (x if x.shape[1] == out else self.conv(x, f"{name}.skip_connection", out, kernel=1))

    def attend(self, x: torch.Tensor, name: str, heads: int = 4) -> torch.Tensor:
        batch, width, *spatial = x.shape
        flat = self.norm(x, f"{name}.norm").flatten(2)
        weight = self.weight(f"{name}.qkv.weight", 3 * width, width, 1, scale=1 / math.sqrt(width))
        qkv = F.conv1d(flat, weight, self.weight(f"{name}.qkv.bias", 3 * width, scale=0.1))
        q, k, v = qkv.reshape(batch * heads, -1, flat.shape[-1]).chunk(3, dim=1)
        weights = torch.softmax(q.transpose(1, 2) @ k / math.sqrt(width // heads), dim=-1)
        out = (v @ weights.transpose(1, 2)).reshape(batch, width, -1)
        weight = self.weight(f"{name}.proj_out.weight", width, width, 1, scale=1 / math.sqrt(width))
        out = F.conv1d(out, weight, self.weight(f"{name}.proj_out.bias", width, scale=0.1))
        return x + out.reshape(batch, width, *spatial)

    def encode_image(self, image: torch.Tensor) -> torch.Tensor:
        first = h = self.conv(image, "rrdb.conv_first", 64)
        for j in range(self.rrdb):
            outer = h
            for k in (1, 2, 3):
                dense = [h]
                for i in range(1, 5):
                    name = f"rrdb.RRDB_trunk.{j}.RDB{k}.conv{i}"
                    dense.append(F.leaky_relu(self.conv(torch.cat(dense, 1), name, 32), 0.2))
                h = h + 0.2 * self.conv(torch.cat(dense, 1), f"rrdb.RRDB_trunk.{j}.RDB{k}.conv5", 64)
            h = outer + 0.2 * h
        h = F.leaky_relu(self.conv(first + self.conv(h, "rrdb.trunk_conv", 64), "rrdb.HRconv", 64), 0.2)
        return self.conv(h, "rrdb.conv_last", self.widths[0])

    def __call__(self, x: torch.Tensor, t: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        base = self.widths[0]
        frequencies = torch.exp(-math.log(10000) * torch.arange(base // 2) / (base // 2))
        angles = t[:, None].float() * frequencies
        emb = self.linear(torch.cat([angles.cos(), angles.sin()], 1), "time_embed.0", 4 * base)
        emb = self.linear(F.silu(emb), "time_embed.2", 4 * base)

        h = self.conv(x, "input_blocks.0.0", base) + self.encode_image(image)
        skips, index = [h], 0
        for level, width in enumerate(self.widths):
            for _ in range(self.res):
                index += 1
                h = self.residual(h, emb, f"input_blocks.{index}.0", width)
                if self.attention[level]:
                    h = self.attend(h, f"input_blocks.{index}.1")
                skips.append(h)
            if level < len(self.widths) - 1:
                index += 1
                h = self.conv(h, f"input_blocks.{index}.0.op", width, stride=2)
                skips.append(h)
        h = self.residual(h, emb, "middle_block.0", self.widths[-1])
        h = self.attend(h, "middle_block.1")
        h = self.residual(h, emb, "middle_block.2", self.widths[-1])
        index = 0
        for level in reversed(range(len(self.widths))):
            for i in range(self.res + 1):
                h = self.residual(torch.cat([h, skips.pop()], 1), emb, f"output_blocks.{index}.0", self.widths[level])
                if self.attention[level]:
                    h = self.attend(h, f"output_blocks.{index}.1")
                if level > 0 and i == self.res:
                    h = F.interpolate(h, scale_factor=2, mode="nearest")
                    last = 2 if self.attention[level] else 1
                    h = self.conv(h, f"output_blocks.{index}.{last}.conv", self.widths[level])
                index += 1
        return self.conv(F.silu(self.norm(h, "out.0")), "out.2", 1)
