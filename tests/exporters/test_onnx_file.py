# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from monai_segdiff.exporters.onnx_file import _average_blocks


@pytest.mark.parametrize("size", [(2, 3, 4), (4, 9, 2), (1, 1, 1)])
def test_blocks_are_what_adaptive_pooling_averages(size: tuple[int, ...]) -> None:
    x = torch.randn(2, 3, 4, 9, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(_average_blocks(x, size), F.adaptive_avg_pool3d(x, size))


def test_other_pooling_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Sizes \[4, 6, 4\] are no multiples of \[2, 4, 2\]"):
        _average_blocks(torch.zeros(1, 1, 4, 6, 4), [2, 4, 2])
