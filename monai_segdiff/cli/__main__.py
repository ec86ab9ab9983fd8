# SPDX-License-Identifier: Apache-2.0
"""Command ``python -m monai_segdiff.cli``."""

from __future__ import annotations

from . import main

__all__: list[str] = []

if __name__ == "__main__":
    main()
