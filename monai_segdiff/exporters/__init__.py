# SPDX-License-Identifier: Apache-2.0
"""Files that compute what a network does, without its Python code. TorchScript is not offered: it is deprecated."""

from __future__ import annotations

from .export_network import export_network
from .exported_network import ExportedNetwork

__all__ = ["ExportedNetwork", "export_network"]
