# SPDX-License-Identifier: Apache-2.0
"""Reading pictures and annotations, and listing datasets."""

from __future__ import annotations

from .aperio_reader import AperioReader
from .atomic_image_writer import AtomicPILWriter
from .atomic_write import atomic_write
from .cityscapes import cityscapes_split, prepare_cityscapes_crops
from .cityscapes_annotation import CityscapesAnnotation
from .cityscapes_sample import generate_cityscapes_sample
from .image_datalist import image_datalist
from .instance_datalist import with_instances
from .instance_reader import InstanceReader
from .mask_reader import MaskReader
from .monuseg import monuseg_datalist
from .monuseg_split import evaluation_datalist, monuseg_split
from .rgb_reader import RGBReader
from .sample import generate_sample_dataset
from .vaihingen import vaihingen_split
from .vaihingen_sample import generate_vaihingen_sample

__all__ = [
    "AperioReader",
    "AtomicPILWriter",
    "CityscapesAnnotation",
    "InstanceReader",
    "MaskReader",
    "RGBReader",
    "atomic_write",
    "cityscapes_split",
    "evaluation_datalist",
    "generate_cityscapes_sample",
    "generate_sample_dataset",
    "generate_vaihingen_sample",
    "image_datalist",
    "monuseg_datalist",
    "monuseg_split",
    "prepare_cityscapes_crops",
    "vaihingen_split",
    "with_instances",
]
