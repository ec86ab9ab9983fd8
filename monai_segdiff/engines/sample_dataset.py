# SPDX-License-Identifier: Apache-2.0
"""The generated sample set as a bundle's default data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ignite.distributed as idist

from ..data import generate_sample_dataset

__all__ = ["prepare_sample_dataset"]


def prepare_sample_dataset(
    sample_dir: str | Path, generate: Callable[[str | Path], Path] = generate_sample_dataset
) -> Path:
    """Generate the sample set where a bundle expects it, and say so.

    Args:
        sample_dir: folder of the sample set; an existing sample set is kept.
        generate: function that writes the sample set of the bundle.

    Returns:
        The folder.
    """
    with idist.one_rank_first():
        if idist.get_rank() == 0:
            print(
                f"Using the generated sample images in {sample_dir}. "
                "For real images add --dataset_dir FOLDER; the bundle's docs/README.md says what it must hold."
            )
        return generate(sample_dir)
