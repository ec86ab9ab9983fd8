# SPDX-License-Identifier: Apache-2.0
"""MONAI Deploy application: a DICOM series in, its segmentation by a bundle as DICOM-SEG out."""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
from pathlib import Path

from coded_segment import CodedSegment
from deployed_bundle import DeployedBundle
from monai.deploy.conditions import CountCondition
from monai.deploy.core import AppContext, Application, Image, IOType
from monai.deploy.operators.dicom_data_loader_operator import DICOMDataLoaderOperator
from monai.deploy.operators.dicom_seg_writer_operator import DICOMSegmentationWriterOperator
from monai.deploy.operators.dicom_series_selector_operator import DICOMSeriesSelectorOperator
from monai.deploy.operators.dicom_utils import ModelInfo
from monai.deploy.operators.monai_bundle_inference_operator import IOMapping, MonaiBundleInferenceOperator
from series_volume_operator import SeriesVolumeOperator

__all__ = ["SegmentationApplication", "main"]

SERIES_VARIABLE = "MONAI_SEGDIFF_SERIES_UID"  # the SDK's parser takes no further options


class SegmentationApplication(Application):
    """Load a series, segment it with the bundle as it is, write one DICOM-SEG.

    Args:
        context: paths, as the SDK parsed them.
        bundle: what segments.
        output_dir: folder for the file, which is named by its SOP instance UID.
        series_uid: SeriesInstanceUID of the series, where the study has several of the modality.
    """

    def __init__(
        self, context: AppContext, bundle: DeployedBundle, output_dir: Path, series_uid: str | None = None
    ) -> None:
        Application.__init__(self)
        self.context, self.bundle, self.output_dir, self.series_uid = context, bundle, output_dir, series_uid

    def compose(self) -> None:
        """Connect the operators."""
        # For any folder the SDK makes a model that holds no network; without it, the inference operator builds the
        # network of the bundle and loads the weights.
        self.context.models = None
        conditions = {"Modality": f"^{self.bundle.modality}$"}
        if self.series_uid:
            conditions["SeriesInstanceUID"] = f"^{re.escape(self.series_uid)}$"
        load = DICOMDataLoaderOperator(
            self,
            CountCondition(self, 1),  # else the source starts again for ever
            input_folder=Path(self.context.input_path),
            name="load",
        )
        select = DICOMSeriesSelectorOperator(
            self,
            rules=json.dumps({"selections": [{"name": "image", "conditions": conditions}]}),
            all_matched=True,
            name="select",
        )
        volume = SeriesVolumeOperator(
            self,
            wanted=f"{self.bundle.modality} series" + (f" with the UID {self.series_uid}" if self.series_uid else ""),
            hint=f"name it in the environment variable {SERIES_VARIABLE}",
            name="volume",
        )
        segment = MonaiBundleInferenceOperator(
            self,
            input_mapping=[IOMapping("image", Image, IOType.IN_MEMORY)],
            output_mapping=[IOMapping("pred", Image, IOType.IN_MEMORY)],
            app_context=self.context,
            bundle_path=self.bundle.path,
            name="segment",
        )
        write = DICOMSegmentationWriterOperator(
            self,
            segment_descriptions=[CodedSegment(one, self.bundle) for one in self.bundle.segments],
            model_info=ModelInfo("monai_segdiff", self.bundle.name[:64], self.bundle.version, self.bundle.uid),
            custom_tags={"SeriesDescription": "Segmentation by monai_segdiff; research only"},
            output_folder=self.output_dir,
            name="write",
        )
        self.add_flow(load, select, {("dicom_study_list", "dicom_study_list")})
        self.add_flow(select, volume, {("study_selected_series_list", "study_selected_series_list")})
        self.add_flow(volume, segment, {("image", "image")})
        self.add_flow(segment, write, {("pred", "seg_image")})
        self.add_flow(select, write, {("study_selected_series_list", "study_selected_series_list")})


def main(argv: list[str] | None = None) -> int:
    """Run the application.

    Args:
        argv: arguments, the name of the program first; None: those of the process.

    Returns:
        0 when the DICOM-SEG is written, 1 when anything failed, and then nothing is written. Wrong arguments end the
        process with 2.
    """
    context = Application.init_app_context(argv)
    output = Path(context.output_path)
    try:
        bundle = DeployedBundle(context.model_path)
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".", dir=output) as unfinished:
            SegmentationApplication(context, bundle, Path(unfinished), os.environ.get(SERIES_VARIABLE)).run()
            [written] = Path(unfinished).glob("*.dcm")
            finished = written.replace(output / written.name)
    except Exception as error:  # of any operator; Holoscan has logged where
        print(f"error: {context.input_path}: {error}", file=sys.stderr)
        return 1
    print(finished)
    return 0


if __name__ == "__main__":
    sys.exit(main())
