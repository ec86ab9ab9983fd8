# SPDX-License-Identifier: Apache-2.0
"""Command ``monai-segdiff predict``."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from tqdm import tqdm

from .given_path import given_path
from .list_inputs import list_inputs
from .wrong_usage import wrong_usage

__all__ = ["BUNDLE_VARIABLE", "predict"]

BUNDLE_VARIABLE = "MONAI_SEGDIFF_BUNDLE"


def predict(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="IN",
            parser=given_path,
            help="A picture (png, tif, jpg) or a NIfTI volume, as the bundle takes them; a folder of such files, or a "
            ".txt list of them; for a 3-D bundle also a folder with a DICOM series.",
        ),
    ],
    output_dir: Annotated[
        Path,
        typer.Argument(
            metavar="OUT",
            parser=given_path,
            help="Folder for the results, not one of the images. Older results of the same name are replaced.",
        ),
    ],
    bundle: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the bundle, such as bundles/monuseg. It is code and will be run.",
            envvar=BUNDLE_VARIABLE,
            show_envvar=True,
            metavar="FOLDER",
            parser=given_path,
        ),
    ] = None,
    device: Annotated[
        str, typer.Option(metavar="NAME", help="cpu, cuda, cuda:1, ...; auto: the first GPU, or else cpu.")
    ] = "auto",
    num_inference_steps: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Steps of the sampler. Default: the bundle's.")
    ] = None,
    num_generations: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Results to average. Default: the bundle's.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Seed of the noise. Default: the bundle's.")
    ] = None,
    max_batch: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Windows at a time; bounds the memory. Default: the bundle's."),
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Give an image up after so long. Default: never.")
    ] = None,
    overlay: Annotated[bool, typer.Option(help="Write the image with the outlines of the mask (png).")] = True,
    probability: Annotated[
        bool, typer.Option("--probability", help="Write probabilities: png (0..255), or NIfTI, all classes.")
    ] = False,
    uncertainty: Annotated[
        bool, typer.Option("--uncertainty", help="Write predictive entropy in nats: tif or NIfTI, float32.")
    ] = False,
    geojson: Annotated[
        bool, typer.Option("--geojson", help="Write separate nuclei for QuPath; only bundles that tell them apart.")
    ] = False,
    pixel_size: Annotated[
        float | None, typer.Option(metavar="UM", help="Side of a pixel in micrometres, for areas in the GeoJSON.")
    ] = None,
    dicom_seg: Annotated[
        bool,
        typer.Option(
            "--dicom-seg", help="Write a DICOM segmentation of the series; with --probability also a fractional one."
        ),
    ] = False,
    series_uid: Annotated[
        str | None,
        typer.Option(metavar="UID", help="SeriesInstanceUID of the series to take, where IN has several DICOM series."),
    ] = None,
) -> None:
    """Segment images with a bundle and write their masks.

    Files: NAME_mask.png (0 and 255) of a picture, NAME_seg.nii.gz (class indices) of a volume; on request
    NAME_overlay.png, NAME_probability.*, NAME_entropy.*, NAME_nuclei.geojson, NAME_seg.dcm.

    Exit status: 0 all done, 1 some images failed, 2 wrong usage and nothing done, 130 stopped by Ctrl-C. In the first
    seconds, while Python imports its packages, Ctrl-C ends it by the signal, which a shell shows as 130 too.
    """
    with wrong_usage():
        if bundle is None:
            raise ValueError(
                f"Missing option --bundle (or the environment variable {BUNDLE_VARIABLE}): the folder of a bundle, "
                "such as bundles/monuseg."
            )
        for name, value in (("--timeout", timeout), ("--pixel-size", pixel_size)):
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} is {value}; expected a number above 0.")
        if pixel_size is not None and not geojson:
            raise ValueError("--pixel-size has no effect without --geojson.")
        from ..io.dicom_series import read_dicom_series
        from ..io.prediction_writer import PredictionWriter
        from ..io.source_headers import check_segmentable
        from ..predictor import SegDiffPredictor
        from .check_device import check_device

        check_device(device)
        predictor = SegDiffPredictor.from_bundle(bundle, device)
        predictor.bundle.inferer(num_inference_steps, num_generations, seed, max_batch)  # refuses bad settings
        writer = PredictionWriter(
            predictor,
            output_dir,
            overlay=overlay,
            probability=probability,
            uncertainty=uncertainty,
            geojson=geojson,
            pixel_size=pixel_size,
            dicom_seg=dicom_seg,
        )
        images = list_inputs(source, predictor.bundle.network.spatial_dims)
        _check_inputs(source, list(images.values()), dicom_seg, series_uid)
        _check_output(source, output_dir, list(images.values()))
        output_dir.mkdir(parents=True, exist_ok=True)

    done = failed = 0
    try:
        for name, path in tqdm(images.items(), desc="segmenting", unit="image", disable=not sys.stderr.isatty()):
            try:
                if dicom_seg:  # before any time goes into a result that could not be written
                    check_segmentable(read_dicom_series(path, predictor.bundle.modality, series_uid))
                prediction = predictor.predict(
                    path,
                    num_inference_steps=num_inference_steps,
                    num_generations=num_generations,
                    seed=seed,
                    max_batch=max_batch,
                    timeout_s=timeout,
                    series_uid=series_uid,
                )
                writer(prediction, name)
                done += 1
            except Exception as error:  # one bad image does not stop the others
                tqdm.write(f"Failed: {_one_line(path, error)}", file=sys.stderr)
                failed += 1
    except KeyboardInterrupt:
        typer.echo(f"\nStopped: {done} of {len(images)} done, in {output_dir}", err=True)
        raise typer.Exit(130) from None
    what = "image" if len(images) == 1 else "images"
    typer.echo(f"{done} of {len(images)} {what} segmented, {failed} failed; results are in {output_dir}")
    raise typer.Exit(1 if failed else 0)


def _check_inputs(source: Path, images: list[str], dicom_seg: bool, series_uid: str | None) -> None:
    """Refuse what only DICOM series have of other images, and series without the packages that read them."""
    if series_uid == "":
        raise ValueError("--series-uid is empty (a variable that is not set?); expected a SeriesInstanceUID.")
    if any(map(os.path.isdir, images)):
        from ..io.import_dicom import import_dicom

        for package in ("pydicom", "itk"):
            import_dicom(package)
        return
    for option, given in (("--dicom-seg", dicom_seg), ("--series-uid", series_uid is not None)):
        if given:
            raise ValueError(f"{source}: {option} needs a folder with a DICOM series.")


def _check_output(source: Path, output_dir: Path, images: list[str]) -> None:
    """Refuse to write among the inputs: over what lies there, and to be taken for inputs next time."""
    if not output_dir.exists():
        return
    if not output_dir.is_dir():
        raise ValueError(f"{output_dir}: is a file; expected a folder for the results.")
    inputs = [Path(os.path.expanduser(source)), *map(Path, images)]
    if any(output_dir.samefile(path if path.is_dir() else path.parent) for path in inputs):
        raise ValueError(f"{output_dir}: is the folder of the images; expected another one for the results.")


def _one_line(path: str, error: Exception) -> str:
    """What is wrong with which file."""
    line, _, _ = str(error).strip().partition("\n")
    return line if path in line else f"{path}: {type(error).__name__}: {line}"
