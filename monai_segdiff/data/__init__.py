# SPDX-License-Identifier: Apache-2.0
"""Reading pictures and annotations, and listing datasets."""

from __future__ import annotations

from .aperio_reader import AperioReader
from .atomic_image_writer import AtomicPILWriter
from .atomic_write import atomic_write
from .image_datalist import image_datalist
from .mask_reader import MaskReader
from .monuseg import monuseg_datalist
from .monuseg_split import evaluation_datalist, monuseg_split
from .rgb_reader import RGBReader
from .sample import generate_sample_dataset

__all__ = [
    "AperioReader",
    "AtomicPILWriter",
    "MaskReader",
    "RGBReader",
    "atomic_write",
    "evaluation_datalist",
    "generate_sample_dataset",
    "image_datalist",
    "monuseg_datalist",
    "monuseg_split",
]
