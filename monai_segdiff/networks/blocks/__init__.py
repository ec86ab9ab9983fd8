# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from .rrdb import RRDB, ResidualDenseBlock
from .space_to_depth import depth_to_space, space_to_depth

__all__ = ["RRDB", "ResidualDenseBlock", "depth_to_space", "space_to_depth"]
