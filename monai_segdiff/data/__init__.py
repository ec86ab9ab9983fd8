# SPDX-License-Identifier: Apache-2.0
"""Reading pictures and annotations, and listing datasets."""

from __future__ import annotations

from .aperio_reader import AperioReader
from .atomic_image_writer import AtomicPILWriter
from .atomic_write import atomic_write
from .cityscapes import cityscapes_split, prepare_cityscapes_crops
from .cityscapes_annotation import CityscapesAnnotation
from .cityscapes_sample import generate_cityscapes_sample
from .decathlon import decathlon_datalist, decathlon_split
from .evaluation_datalist import evaluation_datalist
from .hippocampus_sample import generate_hippocampus_sample
from .image_datalist import image_datalist
from .instance_datalist import with_instances
from .instance_reader import InstanceReader
from .mask_reader import MaskReader
from .monuseg import monuseg_datalist
from .monuseg_split import monuseg_split
from .rgb_reader import RGBReader
from .sample import generate_sample_dataset
from .vaihingen import vaihingen_split
from .vaihingen_sample import generate_vaihingen_sample
from .volume_datalist import volume_datalist
from .volume_reader import VolumeReader
from .volume_writer import VolumeWriter

__all__ = [
    "AperioReader",
    "AtomicPILWriter",
    "CityscapesAnnotation",
    "InstanceReader",
    "MaskReader",
    "RGBReader",
    "VolumeReader",
    "VolumeWriter",
    "atomic_write",
    "cityscapes_split",
    "decathlon_datalist",
    "decathlon_split",
    "evaluation_datalist",
    "generate_cityscapes_sample",
    "generate_hippocampus_sample",
    "generate_sample_dataset",
    "generate_vaihingen_sample",
    "image_datalist",
    "monuseg_datalist",
    "monuseg_split",
    "prepare_cityscapes_crops",
    "vaihingen_split",
    "volume_datalist",
    "with_instances",
]
