# SPDX-License-Identifier: Apache-2.0
"""Loss of networks that predict the clean mask."""

from __future__ import annotations

import torch
from monai.losses import DiceLoss
from torch import nn
from torch.nn import functional as F

from ..inferers.generation_statistics import mask_to_probability

__all__ = ["CleanMaskLoss"]

# Keeps the logarithm finite where the estimate reaches or leaves the mask range.
SMALLEST_PROBABILITY = 1e-3


class CleanMaskLoss(nn.Module):
    """Squared error of the predicted clean mask, with auxiliary Dice and cross-entropy of its probability.

    For ``prediction_type="sample"``: only there is the network's output a mask.
    ``mse_weight * mean((x0_hat - x0)^2) + dice_weight * Dice(p_hat, p) + bce_weight * BCE(p_hat, p)`` with
    ``p = (x0 + 1) / 2`` and ``p_hat`` clamped to [0, 1].

    Args:
        mse_weight: weight of the squared error, the published objective.
        dice_weight: weight of MONAI's ``DiceLoss``, pooled over the batch.
        bce_weight: weight of the binary cross-entropy, in nats.

    Raises:
        ValueError: a negative weight, or all of them 0.

    Example:
        >>> loss = CleanMaskLoss(dice_weight=0.5)
        >>> loss(torch.full((1, 1, 4, 4), 1.0), torch.ones(1, 1, 4, 4)).item()
        0.0
    """

    def __init__(self, mse_weight: float = 1.0, dice_weight: float = 0.0, bce_weight: float = 0.0) -> None:
        super().__init__()
        self.weights = {"mse_weight": mse_weight, "dice_weight": dice_weight, "bce_weight": bce_weight}
        if min(self.weights.values()) < 0 or max(self.weights.values()) == 0:
            raise ValueError(f"Weights must be at least 0 and not all 0, found {self.weights}.")
        self.dice = DiceLoss(batch=True)

    def forward(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the loss, a scalar.

        Args:
            prediction: estimated clean masks ``[B, C, *spatial]``.
            target: clean masks in [-1, 1], of the same shape.

        Raises:
            ValueError: different shapes.
        """
        if prediction.shape != target.shape:
            raise ValueError(f"Shapes differ: prediction {list(prediction.shape)}, target {list(target.shape)}.")
        prediction = prediction.float()
        loss = self.weights["mse_weight"] * F.mse_loss(prediction, target)
        estimate, truth = mask_to_probability(prediction), mask_to_probability(target)
        if self.weights["dice_weight"] > 0:
            loss = loss + self.weights["dice_weight"] * self.dice(estimate, truth)
        if self.weights["bce_weight"] > 0:
            inside = estimate.clamp(SMALLEST_PROBABILITY, 1 - SMALLEST_PROBABILITY)
            loss = loss + self.weights["bce_weight"] * F.binary_cross_entropy(inside, truth)
        return loss
