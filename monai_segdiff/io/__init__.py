# SPDX-License-Identifier: Apache-2.0
"""What the predictor reads and writes beyond MONAI's readers and writers."""

from __future__ import annotations

__all__: list[str] = []
