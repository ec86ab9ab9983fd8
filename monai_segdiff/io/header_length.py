# SPDX-License-Identifier: Apache-2.0
"""Lengths in DICOM headers, which are often missing or wrong."""

from __future__ import annotations

import math
from typing import Any

__all__ = ["header_length"]


def header_length(header: Any, name: str) -> float:
    """Read a length that can be done without.

    Args:
        header: pydicom ``Dataset``.
        name: keyword of the element.

    Returns:
        The length in mm without its sign, as SpacingBetweenSlices is negative in some series; 0 where it is missing or
        no finite number.

    Example:
        >>> header_length(dcmread("IM0001"), "SliceThickness")  # doctest: +SKIP
        2.0
    """
    try:
        length = abs(float(header.get(name) or 0))
    except (TypeError, ValueError):
        return 0.0
    return length if math.isfinite(length) else 0.0
