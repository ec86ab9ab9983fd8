# SPDX-License-Identifier: Apache-2.0
"""Pictures of results."""

from __future__ import annotations

from .overlay import draw_overlay

__all__ = ["draw_overlay"]
