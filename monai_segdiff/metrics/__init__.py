# SPDX-License-Identifier: Apache-2.0
"""Metrics: boundary F score, overlap scores with intervals."""

from __future__ import annotations

from .boundary_f import BoundaryFMetric, compute_boundary_f
from .segmentation_scores import bootstrap_interval, segmentation_scores

__all__ = ["BoundaryFMetric", "bootstrap_interval", "compute_boundary_f", "segmentation_scores"]
