# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from monai.losses import DiceCELoss
from torch.nn import functional as F

from monai_segdiff import MaskPriorLoss


def example(dims: int = 2, classes: int = 3, latent: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(dims)
    logits = 3 * torch.randn(2, classes, *[latent] * dims, generator=generator)
    return logits, torch.randint(classes, (2, 1, *[8] * dims), generator=generator)


def upsampled(logits: torch.Tensor) -> torch.Tensor:
    mode = "bilinear" if logits.ndim == 4 else "trilinear"
    return F.interpolate(logits, [8] * (logits.ndim - 2), mode=mode, align_corners=False)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("latent", [8, 4, 2])
def test_cross_entropy_at_the_size_of_the_image(dims: int, classes: int, latent: int) -> None:
    logits, labels = example(dims, classes, latent)
    full = logits if latent == 8 else upsampled(logits)
    assert torch.equal(MaskPriorLoss()(logits, labels), F.cross_entropy(full, labels[:, 0]))


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("latent", [8, 4])
def test_dice_ce_is_that_of_monai(dims: int, classes: int, latent: int) -> None:
    logits, labels = example(dims, classes, latent)
    full = logits if latent == 8 else upsampled(logits)
    expected = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, batch=True)(full, labels)
    loss = MaskPriorLoss("dice_ce")(logits, labels)
    assert torch.equal(loss, expected)
    # And by hand: the sum of both, Dice of each foreground class over the whole batch.
    probability, truth = full.softmax(1).double(), F.one_hot(labels[:, 0], classes).movedim(-1, 1).double()
    axes = (0, *range(2, full.ndim))
    dice = (2 * (probability * truth).sum(axes) + 1e-5) / (probability.sum(axes) + truth.sum(axes) + 1e-5)
    by_hand = F.cross_entropy(full, labels[:, 0]).double() + (1 - dice[1:]).mean()
    assert loss.item() == pytest.approx(by_hand.item(), rel=1e-5)


def test_of_nothing_known_it_is_the_logarithm_of_the_classes() -> None:
    loss = MaskPriorLoss()(torch.zeros(1, 5, 4, 4), torch.full((1, 1, 8, 8), 4))
    assert loss.item() == pytest.approx(math.log(5))


def test_ignored_labels_count_for_nothing() -> None:
    logits, labels = example()
    loss = MaskPriorLoss(ignore_index=0)
    counted = labels[:, 0] != 0
    expected = F.cross_entropy(logits.movedim(1, -1)[counted], labels[:, 0][counted])
    torch.testing.assert_close(loss(logits, labels), expected)
    logits.requires_grad_()
    loss(logits, labels).backward()
    assert logits.grad is not None
    assert torch.equal(logits.grad.abs().sum(1) > 0, counted)


@pytest.mark.parametrize("loss", ["ce", "dice_ce"])
def test_types(loss: str) -> None:
    logits, labels = example()
    expected = MaskPriorLoss(loss)(logits.bfloat16().float(), labels)
    found = MaskPriorLoss(loss)(logits.bfloat16(), labels.float())
    assert found.dtype == torch.float32
    assert torch.equal(found, expected), "computed in float32, of labels of any type"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"loss": "dice"}, "'dice' is not a valid value"),
        ({"loss": "dice_ce", "ignore_index": 0}, "ignore_index=0 needs loss='ce'"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MaskPriorLoss(**arguments)


@pytest.mark.parametrize("shape", [(2, 8, 8), (2, 3, 8, 8), (1, 1, 8, 8), (2, 1, 8, 8, 8)])
def test_bad_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(
        ValueError, match=r"Expected labels \[B, 1, \*spatial\] for logits \[2, 3, 8, 8\], found"
    ) as caught:
        MaskPriorLoss()(torch.zeros(2, 3, 8, 8), torch.zeros(shape))
    assert str(list(shape)) in str(caught.value)
