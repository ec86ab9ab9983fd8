# SPDX-License-Identifier: Apache-2.0
"""The MONAI Deploy application.

Marked with ``environments``: it runs in its own environment, that of ``MONAI_DEPLOY_ENV`` or a new one, on made-up
series, and its DICOM-SEG must equal what the bundle's own command gives for the same volumes in NIfTI.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import highdicom as hd
import nibabel as nib
import numpy as np
import pydicom
import pytest
from nibabel.orientations import axcodes2ornt, ornt_transform
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid
from scipy.spatial.transform import Rotation

from monai_segdiff.data import generate_hippocampus_sample

ROOT = Path(__file__).parents[2]
EXAMPLE, BUNDLE = ROOT / "examples" / "deploy", ROOT / "bundles" / "hippocampus"


def write_series(
    folder: Path,
    image: nib.Nifti1Image,
    modality: str = "MR",
    slope: float | None = None,
    change: Callable[[int, FileDataset], object] | None = None,
) -> list[Path]:
    """Write int16 voxels ``[X, Y, Z]`` with a RAS affine as one slice a file, along the last axis, in random names.

    ``change`` may alter slice k before it is written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    voxels, affine = np.asarray(image.dataobj).astype(np.int16), np.diag([-1, -1, 1, 1]) @ image.affine
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    right, down = (affine[:3, :2] / spacing[:2]).T
    common = {name: generate_uid() for name in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")}
    files = []
    for number in range(voxels.shape[2]):
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        meta.MediaStorageSOPClassUID = MRImageStorage if modality == "MR" else CTImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        ds = FileDataset(None, {}, file_meta=meta, preamble=bytes(128))
        ds.SOPClassUID, ds.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
        ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "Made^Up", "1", "", "O"
        ds.StudyDate, ds.StudyTime, ds.StudyID, ds.AccessionNumber = "20260101", "120000", "1", ""
        ds.ReferringPhysicianName = ds.Manufacturer = ds.PositionReferenceIndicator = ""
        ds.Modality, ds.SeriesNumber, ds.InstanceNumber = modality, 1, number + 1
        ds.ImagePositionPatient = [f"{x:.10g}" for x in affine[:3, 3] + number * affine[:3, 2]]
        ds.ImageOrientationPatient = [f"{x:.10g}" for x in (*right, *down)]
        ds.PixelSpacing, ds.SliceThickness = [f"{spacing[1]:.10g}", f"{spacing[0]:.10g}"], f"{spacing[2]:.10g}"
        ds.Columns, ds.Rows = voxels.shape[:2]
        ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 1
        ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 16, 15
        if slope is not None:
            ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = slope, 0, "US"
        for name, value in common.items():
            setattr(ds, name, value)
        ds.PixelData = np.ascontiguousarray(voxels[:, :, number].T).astype("<i2").tobytes()
        if change is not None:
            change(number, ds)
        files.append(folder / f"{generate_uid()}.dcm")
        ds.save_as(files[-1], enforce_file_format=True)
    return files


def turned(image: nib.Nifti1Image, axes: str) -> nib.Nifti1Image:
    """The same volume with its axes in another order and other directions."""
    now = axcodes2ornt(nib.aff2axcodes(image.affine))
    return image.as_reoriented(ornt_transform(now, axcodes2ornt(axes)))


@dataclass
class Case:
    """A volume: its axes, the angle by which it is turned, its voxel size in mm, and the slope of its pixels."""

    axes: str = "LPS"
    degrees: float = 0
    spacing: tuple[float, float, float] = (1, 1, 1)
    slope: float | None = None

    def images(self, sample: nib.Nifti1Image) -> tuple[nib.Nifti1Image, nib.Nifti1Image]:
        """What the pixels hold, and its values; axes right, front, up."""
        affine = sample.affine.copy()
        affine[:3, :3] = Rotation.from_rotvec(np.deg2rad(self.degrees) * np.array([0.6, 0, 0.8])).as_matrix()
        affine[:3, :3] *= self.spacing
        stored = np.asarray(sample.dataobj).copy()
        values = stored
        if self.slope is not None:
            stored[:, :, 0] = 0
            values = (stored * self.slope).astype(np.float32)
        return nib.Nifti1Image(stored, affine), nib.Nifti1Image(values, affine)


CASES = {
    "axial": Case(),
    "reversed": Case("LPI"),
    "sagittal": Case("PIR"),
    "oblique": Case(degrees=10),
    "not_square": Case(spacing=(0.8, 1.1, 1.3)),
    # As integers, these values would all be 0; the empty slice tempts the SDK to make them so.
    "rescaled": Case(slope=0.001),
}


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the application's environment is, or is to be made by its first run."""
    return Path(os.environ.get("MONAI_DEPLOY_ENV") or tmp_path_factory.mktemp("environment"))


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, nib.Nifti1Image]:
    sample = generate_hippocampus_sample(tmp_path_factory.mktemp("sample") / "sample", num_volumes=1)
    image = nib.load(sample / "imagesTr" / "hippocampus_001.nii.gz")
    return {name: case.images(image) for name, case in CASES.items()}


@pytest.fixture(scope="module")
def masks(volumes: dict, tmp_path_factory: pytest.TempPathFactory) -> dict[str, nib.Nifti1Image]:
    """Label maps that the bundle's own command gives."""
    folder = tmp_path_factory.mktemp("nifti")
    for name, (_, values) in volumes.items():
        nib.save(values, folder / f"{name}.nii.gz")
    config = BUNDLE / "configs" / "inference.json"
    command = [sys.executable, "-m", "monai.bundle", "run", "inference", "--config_file", str(config)]
    options = ["--dataset_dir", str(folder), "--output_dir", str(folder / "out"), "--device", "cpu"]
    subprocess.run(command + options, check=True, cwd=ROOT, capture_output=True, timeout=300)
    return {name: nib.load(folder / "out" / f"{name}_seg.nii.gz") for name in volumes}


def run(
    environment: Path, series: Path, output: Path, bundle: Path = BUNDLE, **variables: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [EXAMPLE / "run.sh", "-i", series, "-o", output, "-m", bundle],
        env={**os.environ, "MONAI_DEPLOY_ENV": str(environment), "CUDA_VISIBLE_DEVICES": "", **variables},
        capture_output=True,
        text=True,
        timeout=600,
    )


def assert_segments(path: Path, slices: list[pydicom.Dataset], mask: nib.Nifti1Image) -> hd.seg.Segmentation:
    """The frames are the label map, by the UID of each slice; ``dciodvfy``, where it is installed, finds no error."""
    seg = hd.seg.segread(path)
    frames = seg.get_pixels_by_source_instance(
        [one.SOPInstanceUID for one in slices], combine_segments=True, assert_missing_frames_are_empty=True
    )
    expected = np.asarray(mask.dataobj)
    assert min(np.bincount(expected.ravel(), minlength=3)) > 100
    np.testing.assert_array_equal(frames.transpose(2, 1, 0), expected)
    np.testing.assert_allclose(seg.get_volume_geometry().spacing[0], mask.header.get_zooms()[2], rtol=1e-4)
    if shutil.which("dciodvfy"):
        report = subprocess.run(["dciodvfy", "-new", path], capture_output=True, text=True, check=False)
        assert "Segmentation" in report.stderr, "it was recognised"
        assert [line for line in report.stderr.splitlines() if line.startswith("Error")] == []
    return seg


@pytest.mark.end_to_end
@pytest.mark.environments
@pytest.mark.parametrize("name", CASES)
def test_application(environment: Path, volumes: dict, masks: dict, tmp_path: Path, name: str) -> None:
    case, (stored, _) = CASES[name], volumes[name]
    files = write_series(tmp_path / "study" / "mr", turned(stored, case.axes), slope=case.slope)
    write_series(tmp_path / "study" / "ct", stored, "CT")
    done = run(environment, tmp_path / "study", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    [written] = (tmp_path / "out").iterdir()
    assert done.stdout.splitlines()[-1] == str(written)

    slices = [pydicom.dcmread(file) for file in files]
    seg = assert_segments(written, slices, turned(masks[name], case.axes))
    assert (seg.Modality, seg.segmentation_type.value) == ("SEG", "BINARY")
    for tag in ("PatientID", "StudyInstanceUID", "FrameOfReferenceUID"):
        assert seg[tag].value == slices[0][tag].value
    version = json.loads((BUNDLE / "configs" / "metadata.json").read_text())["version"]
    sha256 = hashlib.sha256((BUNDLE / "models" / "model.pt").read_bytes()).hexdigest()
    for number, (part, code) in enumerate([("Anterior", "255549009"), ("Posterior", "255551008")], 1):
        segment = seg.get_segment_description(number)
        assert segment.segment_label == f"{part} hippocampus"
        assert segment.segmented_property_type.value == "5366008"
        [kind] = segment.SegmentedPropertyTypeCodeSequence
        assert kind.SegmentedPropertyTypeModifierCodeSequence[0].CodeValue == code
        [algorithm] = segment.SegmentationAlgorithmIdentificationSequence
        assert "DDPS" in algorithm.AlgorithmName
        assert (algorithm.AlgorithmVersion, algorithm.AlgorithmParameters) == (version, f"weights_sha256={sha256}")
    [equipment] = seg.ContributingEquipmentSequence
    assert (equipment.SoftwareVersions, equipment.DeviceUID) == (version, f"2.25.{int(sha256[:32], 16)}")


@pytest.mark.end_to_end
@pytest.mark.environments
def test_anonymised_series_of_several(environment: Path, volumes: dict, masks: dict, tmp_path: Path) -> None:
    """One of two series is named; it lacks what anonymisers remove, and its numbers are off as scanners write them."""

    def change(k: int, data: FileDataset) -> None:
        del data.PatientName, data.PatientID, data.StudyID, data.AccessionNumber, data.StudyDate
        data.PatientSex, data.PatientBirthDate, data.SliceThickness = "U", "", None
        data.SpacingBetweenSlices = "-7"
        if k % 2:
            data.ImageOrientationPatient[1] += 2e-8

    stored, bundle = volumes["axial"][0], shutil.copytree(BUNDLE, tmp_path / "bundle")
    metadata = bundle / "configs" / "metadata.json"
    content = json.loads(metadata.read_text())
    content["segments"]["1"]["region"] = {"value": "12738006", "scheme": "SCT", "meaning": "Brain"}
    metadata.write_text(json.dumps(content))
    write_series(tmp_path / "study" / "first", stored)
    slices = [pydicom.dcmread(file) for file in write_series(tmp_path / "study" / "second", stored, change=change)]
    uid = slices[0].SeriesInstanceUID
    done = run(environment, tmp_path / "study", tmp_path / "out", bundle, MONAI_SEGDIFF_SERIES_UID=uid)
    assert done.returncode == 0, done.stderr
    [written] = (tmp_path / "out").iterdir()
    seg = assert_segments(written, slices, masks["axial"])
    assert (seg.PatientID, seg.PatientSex) == ("", "")
    first, second = seg.SegmentSequence
    assert first.AnatomicRegionSequence[0].CodeValue == "12738006"
    assert "AnatomicRegionSequence" not in second


@pytest.mark.end_to_end
@pytest.mark.environments
@pytest.mark.parametrize(
    ("fault", "code", "message"),
    [
        ("modality", 1, "error: {}: holds 0 MR series; expected one."),
        ("two series", 1, r"error: {}: holds 2 MR series \(.*; expected one \(.* MONAI_SEGDIFF_SERIES_UID\)"),
        ("unknown series", 1, "error: {}: holds 0 MR series with the UID 1.2.3; expected one."),
        ("no frame of reference", 1, "has no FrameOfReferenceUID; expected it"),
        ("missing slice", 1, "is a slice missing"),
        ("cut pixels", 1, "the pixels cannot be decoded"),
        ("no folder", 2, "No such file/folder"),
    ],
)
def test_application_refuses(
    environment: Path, volumes: dict, tmp_path: Path, fault: str, code: int, message: str
) -> None:
    stored, _ = volumes["axial"]
    series = tmp_path / "series"
    files = write_series(series, stored, "CT" if fault == "modality" else "MR")
    if fault == "two series":
        write_series(series, stored)
    elif fault == "no frame of reference":
        shutil.rmtree(series)
        write_series(series, stored, change=lambda k, data: delattr(data, "FrameOfReferenceUID"))
    elif fault == "missing slice":
        files[3].unlink()
    elif fault == "cut pixels":
        files[3].write_bytes(files[3].read_bytes()[:-100])
    variables = {"MONAI_SEGDIFF_SERIES_UID": "1.2.3"} if fault == "unknown series" else {}
    done = run(environment, tmp_path / "missing" if fault == "no folder" else series, tmp_path / "out", **variables)
    assert done.returncode == code, done.stderr
    assert re.search(message.format(series), done.stderr.splitlines()[-1]), done.stderr
    assert not list((tmp_path / "out").glob("*"))
