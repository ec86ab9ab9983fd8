# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import pytest
import torch
from monai.losses import DiceLoss

from monai_segdiff import MaskDiffusionLoss


def test_default_is_the_published_squared_error() -> None:
    prediction, target = torch.randn(2, 1, 4, 4), torch.randn(2, 1, 4, 4).sign()
    assert torch.equal(MaskDiffusionLoss()(prediction, target), torch.nn.MSELoss()(prediction, target))


def test_each_term_by_hand() -> None:
    # Probabilities 0.75 and 0.25 where the truth is 1 and 0.
    prediction, target = torch.tensor([[[0.5, -0.5]]]), torch.tensor([[[1.0, -1.0]]])
    assert MaskDiffusionLoss()(prediction, target).item() == pytest.approx(0.25)
    bce = MaskDiffusionLoss(mse_weight=0, bce_weight=1)(prediction, target)
    assert bce.item() == pytest.approx(-math.log(0.75))
    dice = MaskDiffusionLoss(mse_weight=0, dice_weight=1)(prediction, target)
    assert dice.item() == pytest.approx(1 - 2 * 0.75 / (1.0 + 1.0), abs=1e-4)
    both = MaskDiffusionLoss(mse_weight=2, dice_weight=0.5, bce_weight=3)(prediction, target)
    assert both.item() == pytest.approx(2 * 0.25 + 0.5 * dice.item() + 3 * bce.item())


def test_dice_is_monai_pooled_over_the_batch() -> None:
    prediction, target = torch.rand(3, 2, 4, 4) * 2 - 1, torch.randn(3, 2, 4, 4).sign()
    expected = DiceLoss(batch=True)((prediction + 1) / 2, (target + 1) / 2)
    torch.testing.assert_close(MaskDiffusionLoss(mse_weight=0, dice_weight=1)(prediction, target), expected)


@pytest.mark.parametrize("value", [-1e6, -1.0, 1.0, 1e6])
def test_finite_beyond_the_mask_range(value: float) -> None:
    prediction = torch.full((1, 1, 2, 2), value, requires_grad=True)
    loss = MaskDiffusionLoss(dice_weight=1, bce_weight=1)(prediction, -torch.ones(1, 1, 2, 2))
    loss.backward()
    assert torch.isfinite(loss)
    assert prediction.grad is not None
    assert torch.isfinite(prediction.grad).all()


def test_half_precision_is_computed_in_float32() -> None:
    prediction, target = torch.full((1, 1, 64, 64), 0.3), torch.ones(1, 1, 64, 64)
    loss = MaskDiffusionLoss(dice_weight=1, bce_weight=1)
    result = loss(prediction.bfloat16(), target)
    assert result.dtype == torch.float32
    assert result.item() == pytest.approx(loss(prediction, target).item(), rel=0.01)


@pytest.mark.parametrize(
    "weights",
    [{"mse_weight": -1.0}, {"dice_weight": -0.1}, {"bce_weight": -1.0}, {"mse_weight": 0.0}],
)
def test_bad_weights(weights: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="at least 0 and not all 0"):
        MaskDiffusionLoss(**weights)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_auxiliary_terms_need_a_mask(prediction_type: str) -> None:
    assert MaskDiffusionLoss(prediction_type)(torch.zeros(1, 1, 2), torch.ones(1, 1, 2)).item() == 1.0
    for weights in ({"dice_weight": 1.0}, {"bce_weight": 0.1}):
        with pytest.raises(ValueError, match=f"need prediction_type='sample', found '{prediction_type}'"):
            MaskDiffusionLoss(prediction_type, **weights)


def test_different_shapes() -> None:
    with pytest.raises(ValueError, match=r"\[1, 1, 4, 4\], target \[1, 4, 4\]"):
        MaskDiffusionLoss()(torch.zeros(1, 1, 4, 4), torch.zeros(1, 4, 4))
