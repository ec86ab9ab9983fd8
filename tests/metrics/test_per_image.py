# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_segdiff.metrics.per_image import compute_per_image


def test_each_channel_goes_to_its_place() -> None:
    y_pred, y = torch.arange(24.0).reshape(2, 3, 2, 2), torch.arange(24).reshape(2, 3, 2, 2) * 2
    found = compute_per_image(y_pred, y, lambda p, t: [p.sum(), t.max()])
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, torch.stack([y_pred.sum((2, 3)), y.amax((2, 3))], dim=-1).double())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.bool, torch.uint8])
def test_types_and_meta_data(dtype: torch.dtype) -> None:
    volume = torch.ones(1, 1, 2, 3, 4).to(dtype)
    found = compute_per_image(MetaTensor(volume), volume, lambda p, t: float(np.sum(p) + np.sum(t)))
    assert type(found) is torch.Tensor
    assert found.tolist() == [[48]]


@pytest.mark.parametrize(
    ("prediction", "truth", "message"),
    [
        ((1, 2, 2), (1, 2, 2), r"y_pred has shape \(1, 2, 2\), expected \[B, C, H, W\]"),
        ((1, 1, 2, 2), (2, 2), r"y has shape \(2, 2\), expected \[B, C, H, W\]"),
        ((1, 1, 0, 2), (1, 1, 0, 2), "not empty"),
        ((1, 1, 2, 2), (1, 1, 2, 3), "expected equal shapes"),
    ],
)
def test_errors(prediction: tuple, truth: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compute_per_image(torch.zeros(prediction), torch.zeros(truth), lambda p, t: 0)
