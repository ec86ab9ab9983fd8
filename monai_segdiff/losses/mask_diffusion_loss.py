# SPDX-License-Identifier: Apache-2.0
"""Training loss: squared error, and what may be added where the network predicts a mask."""

from __future__ import annotations

import torch
from monai.losses import DiceLoss
from monai.utils import look_up_option
from torch import nn
from torch.nn import functional as F

from ..inferers.generation_statistics import mask_to_probability
from ..networks.schedulers.respaced import PredictionType

__all__ = ["MaskDiffusionLoss"]

# Keeps the logarithm finite where the estimate reaches or leaves the mask range.
SMALLEST_PROBABILITY = 1e-3


class MaskDiffusionLoss(nn.Module):
    """Squared error of the network's output, with auxiliary Dice and cross-entropy of the predicted mask.

    ``mse_weight * mean((output - target)^2) + dice_weight * Dice(p_hat, p) + bce_weight * BCE(p_hat, p)`` with
    ``p = (x0 + 1) / 2`` and ``p_hat`` clamped to [0, 1]. The auxiliary terms need the estimate of the clean mask to be
    the output itself, ``prediction_type="sample"``.

    Args:
        prediction_type: what the network predicts, as the scheduler has it.
        mse_weight: weight of the squared error, the published objective.
        dice_weight: weight of MONAI's ``DiceLoss``, pooled over the batch.
        bce_weight: weight of the binary cross-entropy, in nats.

    Raises:
        ValueError: a negative weight, all of them 0, or auxiliary terms where the output is no mask.

    Example:
        >>> loss = MaskDiffusionLoss("sample", dice_weight=0.5)
        >>> loss(torch.full((1, 1, 4, 4), 1.0), torch.ones(1, 1, 4, 4)).item()
        0.0
    """

    def __init__(
        self,
        prediction_type: str = PredictionType.SAMPLE,
        mse_weight: float = 1.0,
        dice_weight: float = 0.0,
        bce_weight: float = 0.0,
    ) -> None:
        super().__init__()
        self.weights = {"mse_weight": mse_weight, "dice_weight": dice_weight, "bce_weight": bce_weight}
        if min(self.weights.values()) < 0 or max(self.weights.values()) == 0:
            raise ValueError(f"Weights must be at least 0 and not all 0, found {self.weights}.")
        if look_up_option(prediction_type, PredictionType) != PredictionType.SAMPLE and dice_weight + bce_weight > 0:
            raise ValueError(
                f"dice_weight={dice_weight} and bce_weight={bce_weight} need prediction_type='sample', "
                f"found {str(prediction_type)!r}: only then is the network's output a mask."
            )
        self.dice = DiceLoss(batch=True)

    def forward(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the loss, a scalar.

        Args:
            prediction: the network's output ``[B, C, *spatial]``.
            target: what it should be, of the same shape; clean masks in [-1, 1] for ``"sample"``.

        Raises:
            ValueError: different shapes.
        """
        if prediction.shape != target.shape:
            raise ValueError(f"Shapes differ: prediction {list(prediction.shape)}, target {list(target.shape)}.")
        prediction = prediction.float()
        loss = self.weights["mse_weight"] * F.mse_loss(prediction, target)
        if self.weights["dice_weight"] == self.weights["bce_weight"] == 0:
            return loss
        estimate, truth = mask_to_probability(prediction), mask_to_probability(target)
        if self.weights["dice_weight"] > 0:
            loss = loss + self.weights["dice_weight"] * self.dice(estimate, truth)
        if self.weights["bce_weight"] > 0:
            inside = estimate.clamp(SMALLEST_PROBABILITY, 1 - SMALLEST_PROBABILITY)
            loss = loss + self.weights["bce_weight"] * F.binary_cross_entropy(inside, truth)
        return loss
