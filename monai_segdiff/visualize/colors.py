# SPDX-License-Identifier: Apache-2.0
"""Colours of lines in pictures."""

from __future__ import annotations

__all__ = ["LINE_COLORS"]

# Colours that the colour-blind can tell apart.
LINE_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
