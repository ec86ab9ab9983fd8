# SPDX-License-Identifier: Apache-2.0
"""Pictures of results."""

from __future__ import annotations

from .overlay import draw_overlay
from .reliability_diagram import draw_reliability_diagram
from .risk_coverage_plot import draw_risk_coverage
from .uncertainty import draw_uncertainty
from .volume_overlay import draw_volume_overlay

__all__ = [
    "draw_overlay",
    "draw_reliability_diagram",
    "draw_risk_coverage",
    "draw_uncertainty",
    "draw_volume_overlay",
]
