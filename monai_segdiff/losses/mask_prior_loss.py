# SPDX-License-Identifier: Apache-2.0
"""Training loss of the mask prior."""

from __future__ import annotations

import torch
from monai.losses import DiceCELoss
from monai.utils import StrEnum, look_up_option
from torch import nn
from torch.nn import functional as F

__all__ = ["MaskPriorLoss"]

NOTHING = -100


class Loss(StrEnum):
    """What is minimised."""

    CE = "ce"
    DICE_CE = "dice_ce"


class MaskPriorLoss(nn.Module):
    """Cross-entropy of the predicted clean labels, at the size of the image (arXiv 2306.01721); no variational term.

    Logits of a lower resolution are interpolated to the size of the labels first. The Dice term, of all foreground
    classes and pooled over the batch, is an addition for small structures.

    Args:
        loss: ``"ce"`` (published) or ``"dice_ce"``, the sum of both.
        ignore_index: one of the K classes whose pixels do not count, as DDPS treats unlabelled ones; only without the
            Dice term. A batch of such pixels alone has the loss 0.

    Raises:
        ValueError: an unknown loss, or ``ignore_index`` together with the Dice term.

    Example:
        >>> loss = MaskPriorLoss()
        >>> round(loss(torch.zeros(1, 2, 4, 4), torch.ones(1, 1, 8, 8, dtype=torch.long)).item(), 4)  # ln 2
        0.6931
    """

    def __init__(self, loss: str = Loss.CE, ignore_index: int | None = None) -> None:
        super().__init__()
        self.loss = look_up_option(loss, Loss)
        if self.loss != Loss.CE and ignore_index is not None:
            raise ValueError(f"ignore_index={ignore_index} needs loss='ce': the Dice term counts every pixel.")
        self.ignore_index = NOTHING if ignore_index is None else ignore_index
        self.dice_ce = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, batch=True)

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the loss, a scalar.

        Args:
            logits: ``[B, K, *latent]``.
            labels: integers ``[B, 1, *spatial]`` in 0..K-1.

        Raises:
            ValueError: shapes that do not fit.
        """
        if labels.ndim != logits.ndim or labels.shape[:2] != (len(logits), 1):
            raise ValueError(
                f"Expected labels [B, 1, *spatial] for logits {list(logits.shape)}, found {list(labels.shape)}."
            )
        logits = logits.float()
        if logits.shape[2:] != labels.shape[2:]:
            mode = "bilinear" if logits.ndim == 4 else "trilinear"
            logits = F.interpolate(logits, labels.shape[2:], mode=mode, align_corners=False)
        if self.loss == Loss.DICE_CE:
            return self.dice_ce(logits, labels)
        truth = labels[:, 0].long()
        total = F.cross_entropy(logits, truth, reduction="sum", ignore_index=self.ignore_index)
        return total / (truth != self.ignore_index).sum().clamp(min=1)
