# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from monai_segdiff import RRDBEncoder


@pytest.mark.parametrize(("num_blocks", "parameters"), [(6, 4_466_048), (12, 8_782_592), (15, 10_940_864)])
def test_published_parameter_counts(num_blocks: int, parameters: int) -> None:
    with torch.device("meta"):
        encoder = RRDBEncoder(2, in_channels=3, out_channels=128, num_blocks=num_blocks)
    assert sum(p.numel() for p in encoder.parameters()) == parameters


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_forward_equals_the_formula(spatial_dims: int) -> None:
    torch.manual_seed(0)
    encoder = RRDBEncoder(spatial_dims, 2, 5, num_blocks=2, channels=4, growth_channels=3)
    image = torch.randn(1, 2, *[6, 7, 5][:spatial_dims])
    first = encoder.conv_first(image)
    trunk = first + encoder.trunk_conv(encoder.RRDB_trunk[1](encoder.RRDB_trunk[0](first)))
    expected = encoder.conv_last(F.leaky_relu(encoder.HRconv(trunk), 0.2))
    torch.testing.assert_close(encoder(image), expected)
    assert expected.shape == (1, 5, *image.shape[2:])
