# SPDX-License-Identifier: Apache-2.0
"""Files that compute what a network does, without its Python code. TorchScript is not offered: it is deprecated."""

from __future__ import annotations

from .export_segdiff import export_segdiff
from .exported_segdiff import ExportedSegDiff

__all__ = ["ExportedSegDiff", "export_segdiff"]
