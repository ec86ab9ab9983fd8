# SPDX-License-Identifier: Apache-2.0
"""Result pictures that are either whole or not there."""

from __future__ import annotations

from typing import Any

from monai.config import PathLike
from monai.data import PILWriter

from .atomic_write import atomic_write

__all__ = ["AtomicPILWriter"]


class AtomicPILWriter(PILWriter):
    """MONAI's ``PILWriter``, through :func:`~monai_segdiff.data.atomic_write`.

    Example:
        >>> SaveImaged(keys="pred", writer=AtomicPILWriter, output_ext=".png")  # doctest: +SKIP
    """

    def write(self, filename: PathLike, verbose: bool = True, **kwargs: Any) -> None:
        """Write the picture; arguments as for ``PILWriter``."""
        with atomic_write(filename) as temporary:
            super().write(temporary, verbose, **kwargs)
