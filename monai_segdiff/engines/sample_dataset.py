# SPDX-License-Identifier: Apache-2.0
"""The generated sample set as a bundle's default data."""

from __future__ import annotations

from pathlib import Path

import ignite.distributed as idist

from ..data import generate_sample_dataset

__all__ = ["prepare_sample_dataset"]


def prepare_sample_dataset(sample_dir: str | Path) -> Path:
    """Generate the sample set where a bundle expects it, and say so.

    Args:
        sample_dir: folder of the sample set; an existing sample set is kept.

    Returns:
        The folder.
    """
    with idist.one_rank_first():
        if idist.get_rank() == 0:
            print(
                f"Using the generated sample images in {sample_dir}. "
                "For real images add --dataset_dir FOLDER, the folder of the MoNuSeg download."
            )
        return generate_sample_dataset(sample_dir)
