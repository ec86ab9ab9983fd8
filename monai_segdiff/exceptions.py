# SPDX-License-Identifier: Apache-2.0
"""Errors about what a user gave: each names the file, what was found in it and what was expected."""

from __future__ import annotations

__all__ = [
    "AnnotationError",
    "BundleError",
    "CheckpointError",
    "DatasetError",
    "DivergenceError",
    "ExportError",
    "ImageError",
    "PredictionCancelledError",
    "PredictionTimeoutError",
    "SeriesError",
]


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


class BundleError(ValueError):
    """A bundle folder is missing, incomplete, or has settings that do not go together."""


class SeriesError(ValueError):
    """A folder holds no DICOM series that can be used: slices are missing, series are mixed, another modality."""


class PredictionTimeoutError(TimeoutError):
    """A prediction took longer than allowed; nothing of it is kept."""


class PredictionCancelledError(RuntimeError):
    """A prediction was stopped by who asked for it; nothing of it is kept."""
