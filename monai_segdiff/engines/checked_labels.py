# SPDX-License-Identifier: Apache-2.0
"""Labels as a network takes them, checked."""

from __future__ import annotations

import torch
from monai.data import MetaTensor

from ..exceptions import AnnotationError

__all__ = ["checked_labels"]


def checked_labels(label: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Return a batch of label maps as int64 without meta data.

    Args:
        label: ``[B, 1, *spatial]`` of any type.
        num_classes: K, background included.

    Raises:
        AnnotationError: another number of channels, or a value that is not one of 0..K-1; the message names the files
            that have one.
    """
    plain = label.as_tensor() if isinstance(label, MetaTensor) else label
    labels = plain.long()
    wrong = (labels != plain) | (labels < 0) | (labels >= num_classes)
    if plain.shape[1] != 1 or wrong.any():
        values = torch.cat([plain[wrong].unique(), plain[~wrong].unique()])[:10].sort().values
        files = label.meta.get("filename_or_obj") if isinstance(label, MetaTensor) else None
        if isinstance(files, (list, tuple)) and len(files) == len(wrong) and wrong.any():
            files = [file for file, one in zip(files, wrong, strict=True) if one.any()]
        raise AnnotationError(
            f"Labels must have one channel with values 0..{num_classes - 1}; found {plain.shape[1]} channel(s) "
            f"with values {values.tolist()} in {files or 'the batch'}."
        )
    return labels
