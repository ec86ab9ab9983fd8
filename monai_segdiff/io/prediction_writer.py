# SPDX-License-Identifier: Apache-2.0
"""Files of a prediction."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from monai.data import ImageWriter, MetaTensor
from monai.data.utils import affine_to_spacing
from monai.transforms import EnsureChannelFirstd
from PIL import Image

from ..data.atomic_image_writer import AtomicPILWriter
from ..data.volume_writer import VolumeWriter
from ..exceptions import BundleError
from ..prediction import Prediction
from ..visualize.overlay import draw_overlay
from ..visualize.volume_overlay import draw_volume_overlay
from .dicom_seg import write_dicom_probability, write_dicom_seg
from .geojson import nuclei_to_geojson, write_geojson
from .import_dicom import import_dicom
from .segment_code import SegmentCode, segments_of_metadata

if TYPE_CHECKING:
    from ..predictor import SegDiffPredictor

__all__ = ["PredictionWriter"]

LINEWIDTH = 2  # pixels, as in the bundles
LONGEST_TEXT = 64  # characters in DICOM


class PredictionWriter:
    """Write what is asked for of predictions, in the formats of ``python -m monai.bundle run inference``.

    ============== ================================== =====================================================
    what           pictures                           volumes
    ============== ================================== =====================================================
    mask, always   ``NAME_mask.png``, 0 and 255       ``NAME_seg.nii.gz``, class indices, uint8
    overlay        ``NAME_overlay.png``               ``NAME_overlay.png``, three slices
    probability    ``NAME_probability.png``, 0 to 255 ``NAME_probability.nii.gz``, float32 ``[X, Y, Z, C]``
    uncertainty    ``NAME_entropy.tif``, float32      ``NAME_entropy.nii.gz``, float32
    geojson        ``NAME_nuclei.geojson``            none
    dicom_seg      none                               ``NAME_seg.dcm`` and, with probability,
                                                      ``NAME_probability.dcm`` (fractional)
    ============== ================================== =====================================================

    Pictures have their rows first, also of predictions that do not. Volumes lie where their image lies, see
    :class:`~monai_segdiff.VolumeWriter`. The files of one prediction are first written to a hidden folder inside
    ``output_dir`` and then moved out of it one after another; older ones of the same name are replaced. Before the
    first move everything that can be checked has been; what still stops it in between (a crash, a lost disk) leaves
    some files new and some as they were, each whole, and a kill leaves the hidden folder as well.

    Args:
        predictor: what makes the predictions.
        output_dir: folder to write to; made with the first prediction.
        overlay: write the image with the outlines of the mask; the image is read again.
        probability: write the probability.
        uncertainty: write the predictive entropy in nats.
        geojson: write separate objects as QuPath imports them.
        pixel_size: side of a pixel in micrometres, for areas in the GeoJSON.
        dicom_seg: write DICOM segmentations; of DICOM series only.

    Raises:
        BundleError: the bundle cannot give what is asked for.
        ImportError: ``dicom_seg`` without the extra ``dicom``.

    Example:
        >>> writer = PredictionWriter(predictor, "results", geojson=True)  # doctest: +SKIP
        >>> writer(predictor.predict("slide.png"), "slide")  # doctest: +SKIP
        [PosixPath('results/slide_mask.png'), ...]
    """

    def __init__(
        self,
        predictor: SegDiffPredictor,
        output_dir: str | os.PathLike[str],
        *,
        overlay: bool = True,
        probability: bool = False,
        uncertainty: bool = False,
        geojson: bool = False,
        pixel_size: float | None = None,
        dicom_seg: bool = False,
    ) -> None:
        bundle = predictor.bundle
        is_picture = bundle.network.spatial_dims == 2
        if geojson and (bundle.make_instances is None or not is_picture):
            raise BundleError(f"Bundle {bundle.name} does not tell nuclei in pictures apart, so it has no GeoJSON.")
        if dicom_seg and is_picture:
            raise BundleError(f"Bundle {bundle.name} segments pictures; expected one for volumes to write DICOM-SEG.")
        self.segments: dict[int, SegmentCode] = {}
        if dicom_seg:
            self.segments = segments_of_metadata(bundle.metadata, f"metadata.json of bundle {bundle.name}")
            import_dicom("highdicom")
        self.predictor = predictor
        self.output_dir = Path(output_dir)
        self.overlay = overlay
        self.probability = probability
        self.uncertainty = uncertainty
        self.geojson = geojson
        self.pixel_size = pixel_size
        self.dicom_seg = dicom_seg

    def __call__(self, prediction: Prediction, name: str) -> list[Path]:
        """Write the files of one prediction.

        Args:
            prediction: of this predictor.
            name: start of the names of the files, without any folder.

        Returns:
            The files, sorted.

        Raises:
            ValueError: ``name`` is empty or leads to another folder; an overlay of an image that was in memory, or
                DICOM-SEG of one that was no series.
            SeriesError: the series lacks what a DICOM segmentation must repeat of it.
            OSError: a file cannot be written, or a folder has its name.
        """
        if not name or name == ".." or name != Path(name).name or "\0" in name:
            raise ValueError(f"name is {name!r}; expected the start of a file name, without any folder.")
        if self.dicom_seg and prediction.series is None:
            raise ValueError(f"{name}: comes from no DICOM series; expected one to write DICOM-SEG.")
        self.output_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".", dir=self.output_dir) as folder:
            start = Path(folder) / name
            if prediction.mask.ndim == 2:
                self._write_picture(_rows_first(prediction), start)
            else:
                self._write_volume(prediction, start)
            moves = [(path, self.output_dir / path.name) for path in sorted(Path(folder).iterdir())]
            for _, target in moves:
                if target.is_dir() and not target.is_symlink():
                    raise IsADirectoryError(f"{target}: is a folder; expected a file of older results, or nothing.")
            return [path.replace(target) for path, target in moves]

    def _write_picture(self, prediction: Prediction, start: Path) -> None:
        foreground, *others = prediction.probability
        if others:
            raise ValueError(f"{start.name}: has {1 + len(others)} classes; expected one in a picture.")
        _save(AtomicPILWriter(np.uint8, scale=255), _x_first(prediction.mask), {}, f"{start}_mask.png")
        if self.probability:
            _save(AtomicPILWriter(np.uint8, scale=255), _x_first(foreground), {}, f"{start}_probability.png")
        if self.uncertainty:
            Image.fromarray(prediction.uncertainty).save(f"{start}_entropy.tif")
        if self.overlay:
            picture = self._image(prediction).transpose(-1, -2)
            Image.fromarray(draw_overlay(picture, prediction.mask, linewidth=LINEWIDTH)).save(f"{start}_overlay.png")
        if self.geojson:
            collection = nuclei_to_geojson(
                self.predictor.separate_instances(prediction),
                foreground,
                prediction.uncertainty,
                pixel_size=self.pixel_size,
                provenance=dataclasses.asdict(prediction.provenance),
            )
            write_geojson(f"{start}_nuclei.geojson", collection)

    def _write_volume(self, prediction: Prediction, start: Path) -> None:
        meta = prediction.meta
        _save(VolumeWriter(np.uint8), prediction.mask[None], meta, f"{start}_seg.nii.gz")
        if self.probability:
            _save(VolumeWriter(np.float32), prediction.probability, meta, f"{start}_probability.nii.gz")
        if self.uncertainty:
            _save(VolumeWriter(np.float32), prediction.uncertainty[None], meta, f"{start}_entropy.nii.gz")
        if self.overlay:
            image = self._image(prediction)
            spacing = affine_to_spacing(image.affine).tolist()
            draw_volume_overlay(f"{start}_overlay.png", image, prediction.mask, spacing=spacing)
        if self.dicom_seg:
            bundle = self.predictor.bundle
            common: dict[str, Any] = {
                "series": prediction.series,
                "segments": self.segments,
                "algorithm": str(bundle.metadata.get("name", bundle.name))[:LONGEST_TEXT],
                "provenance": prediction.provenance,
            }
            write_dicom_seg(f"{start}_seg.dcm", prediction.mask, **common)
            if self.probability:
                write_dicom_probability(f"{start}_probability.dcm", prediction.probability[1:], **common)

    def _image(self, prediction: Prediction) -> MetaTensor:
        """The image, channel first, with its own values."""
        if prediction.series is not None:
            return prediction.series.image
        if prediction.source is None:
            raise ValueError("The image was in memory; expected a file to draw an overlay on.")
        data: dict[str, Any] = {"image": prediction.source}
        for step in (*self.predictor.bundle.transforms().load, EnsureChannelFirstd(keys="image")):
            data = step(data)
        return data["image"]


def _rows_first(prediction: Prediction) -> Prediction:
    """The prediction of a picture with axes ``[H, W]``. Objects are numbered, and ties between them split, by rows."""
    if prediction.rows_first:
        return prediction
    return dataclasses.replace(
        prediction,
        mask=prediction.mask.T,
        probability=prediction.probability.swapaxes(-1, -2),
        uncertainty=prediction.uncertainty.T,
        rows_first=True,
    )


def _x_first(array: np.ndarray) -> np.ndarray:
    """``[1, W, H]`` of ``[H, W]``, as MONAI's writers expect it."""
    return array.T[None]


def _save(writer: ImageWriter, array: np.ndarray, meta: Mapping[str, Any], path: str) -> None:
    """Do what MONAI's ``SaveImage`` does, but for its hiding the errors of the writer."""
    writer.set_data_array(array.copy(), channel_dim=0)  # PyTorch warns of arrays that cannot be written to
    writer.set_metadata(meta, resample=False)
    writer.write(path, verbose=False)
