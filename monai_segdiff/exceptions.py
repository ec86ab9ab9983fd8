# SPDX-License-Identifier: Apache-2.0
"""Errors about what a user gave: each names the file, what was found in it and what was expected."""

from __future__ import annotations

__all__ = ["AnnotationError", "CheckpointError", "DatasetError", "DivergenceError", "ExportError", "ImageError"]


class DatasetError(ValueError):
    """A dataset folder, file list or split is missing, empty or contradicts itself."""


class ImageError(ValueError):
    """An image file cannot be read, is truncated, or holds values or channels that cannot be used."""


class AnnotationError(ValueError):
    """An annotation cannot be read, is empty, or does not fit its image."""


class CheckpointError(RuntimeError):
    """A checkpoint is missing, damaged, or was written for another network."""


class DivergenceError(RuntimeError):
    """The loss of a training run, or the output of a network, is no longer a finite number."""


class ExportError(RuntimeError):
    """A network cannot be exported, or an export is missing, damaged, or does not compute what the network does."""
