# SPDX-License-Identifier: Apache-2.0
"""The selected DICOM series as a volume, read by monai_segdiff."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from monai.deploy.core import Fragment, Image
from monai.deploy.operators.dicom_series_to_volume_operator import DICOMSeriesToVolumeOperator

from monai_segdiff.exceptions import SeriesError
from monai_segdiff.io import read_dicom_series
from monai_segdiff.io.source_headers import mend_headers

__all__ = ["SeriesVolumeOperator"]


class SeriesVolumeOperator(DICOMSeriesToVolumeOperator):
    """In the place of the SDK's operator, with its ports; refuses what is no regular volume.

    The SDK's own (4.0.0) goes on without a missing slice, cuts rescaled values to integers when the first slice is
    empty, exchanges the two sides of pixels that are not square, and takes the first of several series.

    Args:
        fragment: the application.
        wanted: what was selected, for messages.
        hint: how to select one of several, for messages.
        kwargs: ``name``, as for every operator.
    """

    def __init__(self, fragment: Fragment, *args: Any, wanted: str, hint: str, **kwargs: Any) -> None:
        self.wanted, self.hint = wanted, hint
        super().__init__(fragment, *args, **kwargs)

    def convert_to_image(self, study_selected_series_list: list[Any]) -> Image:
        """Read the one selected series, and sort and mend its instances for the writer.

        The writer hands them to highdicom, which refuses anonymised series or orientations that differ in the last
        decimal, and repeats a thickness or distance that is missing or wrong.

        Args:
            study_selected_series_list: what the selector found.

        Returns:
            Float32 ``[X, Y, Z]`` with the affine to RAS in mm.

        Raises:
            SeriesError: not one series is selected, or it is no regular volume or none that a segmentation
                can refer to.
        """
        chosen = [one.series for study in study_selected_series_list for one in study.selected_series]
        if len(chosen) != 1:
            found = ", ".join(str(series.SeriesInstanceUID) for series in chosen)
            raise SeriesError(
                f"holds {len(chosen)} {self.wanted} ({found}); expected one ({self.hint})."
                if chosen
                else f"holds 0 {self.wanted}; expected one."
            )
        instances = chosen[0].get_sop_instances()
        folder = Path(instances[0].get_native_sop_instance().filename).parent
        series = read_dicom_series(folder, series_uid=str(chosen[0].SeriesInstanceUID))
        if sorted(map(_uid, instances)) != sorted(series.instance_uids):
            raise SeriesError(
                f"{folder}: holds {len(series.instance_uids)} slices of a series of {len(instances)}; expected all in "
                "one folder."
            )
        instances.sort(key=lambda one: series.instance_uids.index(_uid(one)))
        affine = series.image.affine.numpy()
        mend_headers([one.get_native_sop_instance() for one in instances], affine)
        meta = {"affine": affine, "original_affine": affine, "space": "RAS", "original_channel_dim": "no_channel"}
        # These two keys tell the inference operator that the array is [X, Y, Z] already.
        meta["spacing"] = np.linalg.norm(affine[:3, :3], axis=0)
        return Image(series.image[0].numpy(), meta)


def _uid(instance: Any) -> str:
    return str(instance.get_native_sop_instance().SOPInstanceUID)
