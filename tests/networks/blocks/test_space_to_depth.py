# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from monai_segdiff.networks.blocks import depth_to_space, space_to_depth


def test_equals_pixel_unshuffle_in_2d() -> None:
    x = torch.randn(2, 3, 8, 12)
    assert torch.equal(space_to_depth(x, 2), F.pixel_unshuffle(x, 2))
    assert torch.equal(space_to_depth(x, 4), F.pixel_unshuffle(x, 4))


@pytest.mark.parametrize("spatial", [(8, 12), (4, 8, 12)])
@pytest.mark.parametrize("patch_size", [1, 2, 4])
def test_round_trip_is_lossless(spatial: tuple[int, ...], patch_size: int) -> None:
    x = torch.randn(2, 3, *spatial)
    folded = space_to_depth(x, patch_size)
    assert folded.shape == (2, 3 * patch_size ** len(spatial), *(size // patch_size for size in spatial))
    assert torch.equal(depth_to_space(folded, patch_size), x)


def test_folds_blocks_of_neighbours_in_3d() -> None:
    x = torch.arange(4 * 4 * 4.0).reshape(1, 1, 4, 4, 4)
    folded = space_to_depth(x, 2)
    assert sorted(folded[0, :, 1, 0, 1].tolist()) == sorted(x[0, 0, 2:4, 0:2, 2:4].flatten().tolist())
