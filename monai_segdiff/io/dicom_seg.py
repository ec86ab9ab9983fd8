# SPDX-License-Identifier: Apache-2.0
"""Masks and probabilities as DICOM segmentations of the series that they were made from."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from monai.config.type_definitions import NdarrayOrTensor
from monai.utils import convert_to_numpy

from ..data.atomic_write import atomic_write
from ..exceptions import SeriesError
from .dicom_series import DicomSeries
from .import_dicom import import_dicom
from .segment_code import CodedTerm, SegmentCode
from .source_headers import source_headers

__all__ = ["write_dicom_probability", "write_dicom_seg"]

PROVENANCE = ("bundle", "bundle_version", "weights_sha256", "package_version", "torch_version", "device", "seed")
NAME = "monai_segdiff"
SERIES_NUMBER_OFFSET = 1000  # from the source's, so that results stand behind the images in a study
NUMBERS = range(2**31)  # of DICOM's IS that are not negative
MAX_FRACTIONAL_VALUE = 255


def write_dicom_seg(
    path: str | os.PathLike[str],
    mask: NdarrayOrTensor,
    series: DicomSeries,
    segments: Mapping[int, SegmentCode],
    *,
    algorithm: str,
    provenance: Any,
    description: str = "Segmentation",
) -> None:
    """Write class indices as a DICOM segmentation of the type BINARY, whole or not at all.

    Each slice of a class that has voxels becomes a frame in the place of its source slice and refers to it; slices
    without any are left out. An empty mask gets all frames, as a segmentation needs at least one: "looked for, not
    found" is a valid result. Study, patient and frame of reference are those of the series; of an anonymised one, what
    is missing or not valid stays blank (see :func:`~monai_segdiff.io.source_headers.mend_headers`).

    The object says what made it: ``algorithm``, version and parameters in the algorithm identification of each segment
    (commas and equals signs inside a value become ``;`` and ``:``, as DICOM separates parameters by them), and package
    and bundle in the contributing equipment. Its device serial number is the hash of the weights. The UIDs are new.

    Args:
        path: file to write.
        mask: uint8 class indices [X, Y, Z] on the grid of ``series.image``, 0 for background.
        series: what the mask was made from; its files are read again.
        segments: description of each class from 1 on, present in the mask or not.
        algorithm: name of the method, up to 64 characters.
        provenance: mapping or object with ``bundle``, ``bundle_version``, ``weights_sha256``, ``package_version``,
            ``torch_version``, ``device``, ``settings`` (a mapping) and ``seed``.
        description: SeriesDescription, up to 64 characters.

    Raises:
        ValueError: the mask has another shape or type or labels that ``segments`` does not declare, ``segments`` is
            not numbered from 1 on, a text does not fit, or ``provenance`` is incomplete.
        SeriesError: the series lacks what a segmentation must repeat of it, or its files are gone.
        OSError: the file cannot be written; an existing one is left as it was.
        ImportError: the extra ``dicom`` is not installed.

    Example:
        >>> series = read_dicom_series("studies/0001/t1", modality="MR")  # doctest: +SKIP
        >>> write_dicom_seg("seg.dcm", mask, series, segments, algorithm="DDPS", provenance=origin)  # doctest: +SKIP
    """
    array = convert_to_numpy(mask)
    if array.dtype != np.uint8 or array.shape != tuple(series.image.shape[1:]):
        raise ValueError(
            f"mask has the shape {list(array.shape)} and the type {array.dtype}; expected uint8 class indices "
            f"{list(series.image.shape[1:])}, the shape of the series."
        )
    _check_numbers(segments)
    undeclared = sorted({*np.unique(array).tolist()} - {0, *segments})
    if undeclared:
        raise ValueError(f"mask holds the labels {undeclared}; expected 0 and those of segments, {sorted(segments)}.")
    _write(
        path,
        array.transpose(2, 1, 0),
        "BINARY",
        bool(array.any()),
        series,
        segments,
        algorithm,
        provenance,
        description,
    )


def write_dicom_probability(
    path: str | os.PathLike[str],
    probability: NdarrayOrTensor,
    series: DicomSeries,
    segments: Mapping[int, SegmentCode],
    *,
    algorithm: str,
    provenance: Any,
    description: str = "Segmentation probability",
) -> None:
    r"""Write probabilities as a DICOM segmentation of the type FRACTIONAL (PROBABILITY), whole or not at all.

    A probability :math:`p` is stored as the whole number nearest to :math:`255 p` (the even one of two), so what is
    read back differs by at most :math:`1/510`. Frames in which all numbers are 0 are left out, unless all are. Further
    as :func:`write_dicom_seg`.

    Args:
        path: file to write.
        probability: float32 [K, X, Y, Z] in [0, 1], of the K classes without background, on the grid of
            ``series.image``.
        series: as for :func:`write_dicom_seg`.
        segments: description of the classes 1 to K.
        algorithm: as for :func:`write_dicom_seg`.
        provenance: as for :func:`write_dicom_seg`.
        description: as for :func:`write_dicom_seg`.

    Raises:
        ValueError: the probability has another shape or type, NaN or values outside [0, 1]; or as for
            :func:`write_dicom_seg`.
        SeriesError: as for :func:`write_dicom_seg`.
        OSError: as for :func:`write_dicom_seg`.
        ImportError: the extra ``dicom`` is not installed.

    Example:
        >>> write_dicom_probability(  # doctest: +SKIP
        ...     "probability.dcm", prediction.probability[1:], series, segments, algorithm="DDPS", provenance=origin
        ... )
    """
    array = convert_to_numpy(probability)
    _check_numbers(segments)
    shape = (len(segments), *series.image.shape[1:])
    if array.dtype != np.float32 or array.shape != shape:
        raise ValueError(
            f"probability has the shape {list(array.shape)} and the type {array.dtype}; expected float32 "
            f"{list(shape)}: the segments without background, and the shape of the series."
        )
    bad = np.count_nonzero(~((array >= 0) & (array <= 1)))  # true for NaN
    if bad:
        raise ValueError(f"probability holds {bad} values that are NaN or outside [0, 1]; expected none.")
    some = bool(np.around(array * float(MAX_FRACTIONAL_VALUE)).any())
    frames = array.transpose(3, 2, 1, 0)
    _write(path, frames, "FRACTIONAL", some, series, segments, algorithm, provenance, description)


def _check_numbers(segments: Mapping[int, SegmentCode]) -> None:
    if not segments or sorted(segments) != list(range(1, len(segments) + 1)):
        raise ValueError(f"segments describes the classes {sorted(segments)}; expected 1, 2, ... without a gap.")


def _write(
    path: str | os.PathLike[str],
    frames: np.ndarray,
    segmentation_type: str,
    omit_empty_frames: bool,
    series: DicomSeries,
    segments: Mapping[int, SegmentCode],
    algorithm: str,
    provenance: Any,
    description: str,
) -> None:
    """Write frames, [Z, Y, X] or [Z, Y, X, K]."""
    highdicom = import_dicom("highdicom")
    codes = import_dicom("pydicom.sr.codedict").codes
    for name, text in (("algorithm", algorithm), ("description", description)):
        if not text.strip() or len(text) > 64 or "\\" in text or not text.isprintable():
            raise ValueError(f"{name} is {text!r}; expected 1 to 64 characters in one line, without a backslash.")
    origin = _origin(provenance)
    identification = highdicom.AlgorithmIdentificationSequence(
        name=algorithm,
        family=codes.DCM.ArtificialIntelligence,
        version=origin["bundle_version"],
        source=NAME,
        parameters={name: value.replace(",", ";").replace("=", ":") for name, value in origin.items()},
    )
    versions = [origin["package_version"], origin["bundle_version"], f"torch {origin['torch_version']}"]
    equipment = highdicom.ContributingEquipment(
        manufacturer=NAME,
        purpose_of_reference=codes.DCM.ProcessingEquipment,
        manufacturer_model_name=NAME,
        software_versions=versions,
        contribution_description=(
            f"bundle {origin['bundle']} {origin['bundle_version']}, weights sha256 {origin['weights_sha256']}, "
            f"seed {origin['seed']}, device {origin['device']}"
        ),
    )
    descriptions = [_describe(number, segments[number], identification, highdicom) for number in sorted(segments)]
    sources = source_headers(series)
    try:
        segmentation = highdicom.seg.Segmentation(
            source_images=sources,
            pixel_array=frames,
            segmentation_type=segmentation_type,
            segment_descriptions=descriptions,
            series_instance_uid=highdicom.UID(),
            series_number=_series_number(sources[0]),
            sop_instance_uid=highdicom.UID(),
            instance_number=1,
            manufacturer=NAME,
            manufacturer_model_name=NAME,
            software_versions=versions,
            device_serial_number=origin["weights_sha256"],
            max_fractional_value=MAX_FRACTIONAL_VALUE,
            omit_empty_frames=omit_empty_frames,
            contributing_equipment=[equipment],
            content_description=description,
            series_description=description,
            # Names of patients may use any character set, and so may labels.
            specific_character_set="ISO_IR 192",
        )
    except (AttributeError, KeyError, ValueError) as error:
        raise SeriesError(
            f"{series.files[0].parent}: no segmentation can refer to this series ({error}); expected MR or CT images "
            "with the patient, study and frame of reference that DICOM requires."
        ) from error
    with atomic_write(path) as temporary:
        segmentation.save_as(temporary)


def _series_number(header: Any) -> int:
    try:
        number = int(header.get("SeriesNumber") or 0)
    except (TypeError, ValueError):
        number = 0
    if number not in NUMBERS:
        number = 0
    return number + SERIES_NUMBER_OFFSET if number + SERIES_NUMBER_OFFSET in NUMBERS else number


def _origin(provenance: Any) -> dict[str, str]:
    """The provenance as text; what stands in ``settings`` gets names of its own."""
    as_mapping = isinstance(provenance, Mapping)
    names = (*PROVENANCE, "settings")
    origin: dict[str, Any] = {
        name: provenance.get(name) if as_mapping else getattr(provenance, name, None) for name in names
    }
    missing = [name for name, value in origin.items() if value is None]
    if missing:
        raise ValueError(f"provenance lacks {missing}; expected {list(names)}.")
    origin |= {f"settings.{name}": value for name, value in origin.pop("settings").items()}
    return {name: str(value) for name, value in origin.items()}


def _describe(number: int, segment: SegmentCode, identification: Any, highdicom: Any) -> Any:
    def concept(term: CodedTerm) -> Any:
        return highdicom.sr.CodedConcept(*term)

    uid = highdicom.UID()
    description = highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=segment.label,
        segmented_property_category=concept(segment.category),
        segmented_property_type=concept(segment.type),
        algorithm_type="AUTOMATIC",
        algorithm_identification=identification,
        tracking_uid=uid,
        tracking_id=f"{number}-{uid[-12:]}",
        anatomic_regions=[concept(segment.region)] if segment.region else None,
    )
    if segment.modifier:
        kind = description.SegmentedPropertyTypeCodeSequence[0]
        kind.SegmentedPropertyTypeModifierCodeSequence = [concept(segment.modifier)]
    return description
