# SPDX-License-Identifier: Apache-2.0
"""What the predictor reads and writes beyond MONAI's readers and writers."""

from __future__ import annotations

from .dicom_seg import write_dicom_probability, write_dicom_seg
from .dicom_seg_reader import read_dicom_probability, read_dicom_seg
from .dicom_series import DicomSeries, read_dicom_series
from .geojson import nuclei_to_geojson, write_geojson
from .instance_polygons import instance_polygons
from .read_geojson import read_geojson
from .segment_code import CodedTerm, SegmentCode, segments_of_metadata
from .source_headers import check_segmentable

__all__ = [
    "CodedTerm",
    "DicomSeries",
    "SegmentCode",
    "check_segmentable",
    "instance_polygons",
    "nuclei_to_geojson",
    "read_dicom_probability",
    "read_dicom_seg",
    "read_dicom_series",
    "read_geojson",
    "segments_of_metadata",
    "write_dicom_probability",
    "write_dicom_seg",
    "write_geojson",
]
