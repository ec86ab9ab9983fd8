# SPDX-License-Identifier: Apache-2.0
"""The MONAI Deploy application.

Marked with ``environments``: it runs in its own environment, that of ``MONAI_DEPLOY_ENV`` or a new one, on made-up
series, and its DICOM-SEG must equal what the bundle's own command gives for the same volumes in NIfTI.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

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
from monai_segdiff.exceptions import BundleError

ROOT = Path(__file__).parents[2]
EXAMPLE, BUNDLE = ROOT / "examples" / "deploy", ROOT / "bundles" / "hippocampus"


def load(name: str) -> ModuleType:
    """A module of the example that does without the SDK."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


DeployedBundle = load("deployed_bundle").DeployedBundle


def write_series(folder: Path, image: nib.Nifti1Image, modality: str = "MR", slope: float | None = None) -> list[Path]:
    """Write int16 voxels ``[X, Y, Z]`` with a RAS affine as one slice a file, along the last axis, in random names."""
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
        files.append(folder / f"{generate_uid()}.dcm")
        ds.save_as(files[-1], enforce_file_format=True)
    return files


def turned(image: nib.Nifti1Image, axes: str) -> nib.Nifti1Image:
    """The same volume with its axes in another order and other directions."""
    now = axcodes2ornt(nib.aff2axcodes(image.affine))
    return image.as_reoriented(ornt_transform(now, axcodes2ornt(axes)))


# without the SDK


def copy_bundle(folder: Path) -> Path:
    for name in ("configs/metadata.json", "models/model.pt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(BUNDLE / name, folder / name)
    return folder


def test_deployed_bundle(tmp_path: Path) -> None:
    folder = copy_bundle(tmp_path / "models" / "hippocampus")
    (folder / "models" / "model.pt").write_bytes(b"weights")
    expected = hashlib.sha256(b"weights").hexdigest()
    for path in (folder, folder.parent):
        bundle = DeployedBundle(path)
        assert (bundle.path, bundle.weights_sha256) == (folder, expected)
        assert bundle.version == json.loads((folder / "configs" / "metadata.json").read_text())["version"]
        assert bundle.modality == "MR"
        assert [one.label for one in bundle.segments] == ["Anterior hippocampus", "Posterior hippocampus"]
        assert bundle.uid == f"2.25.{int(expected[:32], 16)}"
        assert pydicom.uid.UID(bundle.uid).is_valid


def edit_metadata(folder: Path, change: Callable[[dict], object]) -> None:
    file = folder / "configs" / "metadata.json"
    metadata = json.loads(file.read_text())
    change(metadata)
    file.write_text(json.dumps(metadata))


BAD_BUNDLES: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing": (shutil.rmtree, "holds 0 bundles; expected one"),
    "two": (lambda folder: copy_bundle(folder.parent / "other"), "holds 2 bundles"),
    "no weights": (lambda folder: (folder / "models" / "model.pt").unlink(), "model.pt: does not exist"),
    "no json": (lambda folder: (folder / "configs" / "metadata.json").write_text("{"), "metadata.json: cannot be used"),
    "no object": (lambda folder: (folder / "configs" / "metadata.json").write_text("[]"), "cannot be used"),
    "no version": (lambda folder: edit_metadata(folder, lambda data: data.pop("version")), "cannot be used .*version"),
    "no codes": (lambda folder: edit_metadata(folder, lambda data: data.pop("segments")), '"segments" is None'),
}


@pytest.mark.parametrize("change", BAD_BUNDLES)
def test_deployed_bundle_refuses(tmp_path: Path, change: str) -> None:
    act, message = BAD_BUNDLES[change]
    act(copy_bundle(tmp_path / "hippocampus"))
    with pytest.raises(BundleError, match=f"{tmp_path}.*{message}"):
        DeployedBundle(tmp_path)


def test_requirements_cover_the_package() -> None:
    """``--no-deps`` keeps the package's own requirements out; the file must name them."""
    listed = (EXAMPLE / "requirements.txt").read_text().replace("-", "_").lower()
    for requirement in importlib.metadata.requires("monai_segdiff"):
        if "extra ==" not in requirement:
            name = requirement.split(";")[0].rstrip("0123456789.<>=,! ").replace("-", "_").lower()
            assert f"\n{name}" in listed, name


# with the SDK


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


def run(environment: Path, series: Path, output: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [EXAMPLE / "run.sh", "-i", series, "-o", output],
        env={**os.environ, "MONAI_DEPLOY_ENV": str(environment), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=600,
    )


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

    seg = hd.seg.segread(written)
    slices = [pydicom.dcmread(file) for file in files]
    frames = seg.get_pixels_by_source_instance(
        [one.SOPInstanceUID for one in slices], combine_segments=True, assert_missing_frames_are_empty=True
    )
    expected = np.asarray(turned(masks[name], case.axes).dataobj)
    assert min(np.bincount(expected.ravel(), minlength=3)) > 100
    np.testing.assert_array_equal(frames.transpose(2, 1, 0), expected)

    assert (seg.Modality, seg.segmentation_type.value) == ("SEG", "BINARY")
    for tag in ("PatientID", "StudyInstanceUID", "FrameOfReferenceUID"):
        assert seg[tag].value == slices[0][tag].value
    version, sha256 = DeployedBundle(BUNDLE).version, DeployedBundle(BUNDLE).weights_sha256
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
    assert (equipment.SoftwareVersions, equipment.DeviceUID) == (version, DeployedBundle(BUNDLE).uid)


@pytest.mark.end_to_end
@pytest.mark.environments
@pytest.mark.parametrize(
    ("fault", "code", "message"),
    [
        ("modality", 1, "error: {}: holds 0 MR series; expected one."),
        ("two series", 1, "error: {}: holds 2 MR series"),
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
    elif fault == "missing slice":
        files[3].unlink()
    elif fault == "cut pixels":
        files[3].write_bytes(files[3].read_bytes()[:-100])
    done = run(environment, tmp_path / "missing" if fault == "no folder" else series, tmp_path / "out")
    assert done.returncode == code, done.stderr
    assert message.format(series) in done.stderr.splitlines()[-1]
    assert not list((tmp_path / "out").glob("*"))
