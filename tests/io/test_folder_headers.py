# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, MediaStorageDirectoryStorage

from monai_segdiff.exceptions import SeriesError
from monai_segdiff.io.dicom_seg import write_dicom_seg
from monai_segdiff.io.dicom_seg_reader import read_dicom_seg
from monai_segdiff.io.dicom_series import read_dicom_series
from monai_segdiff.io.folder_headers import read_folder_headers

sys.path.insert(0, str(Path(__file__).parent))
from synthetic_seg import ARGUMENTS, SEGMENTS  # noqa: E402
from synthetic_series import SyntheticSeries, write_series  # noqa: E402


@pytest.fixture
def series(tmp_path: Path) -> SyntheticSeries:
    return write_series(tmp_path)


def paths(folder: Path) -> list[Path]:
    [headers] = read_folder_headers(folder).values()
    return [path for path, _ in headers]


def test_headers(series: SyntheticSeries) -> None:
    other = write_series(series.folder, prefix="OTHER", shape=(2, 3, 4))
    found = read_folder_headers(series.folder)
    for written in (series, other):
        headers = found.pop(str(pydicom.dcmread(written.paths[0]).SeriesInstanceUID))
        assert [path for path, _ in headers] == sorted(written.paths)
        for path, header in headers:
            assert header.SOPInstanceUID == written.uids[written.paths.index(path)]
    assert not found


def test_other_files_are_passed_over(series: SyntheticSeries) -> None:
    folder = series.folder
    (folder / "notes.txt").write_text("no DICOM")
    (folder / "empty").touch()
    (folder / "picture.png").write_bytes(b"\x89PNG" + bytes(500))
    (folder / "zeros").write_bytes(bytes(500))
    (folder / "._IM0001.dcm").write_bytes(b"\0\5\x16\7" + bytes(500))  # of macOS
    (folder / ".gone.dcm").symlink_to(folder / "nowhere")
    write_series(folder / "subfolder.dcm")
    directory = pydicom.dcmread(series.paths[0])
    directory.file_meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
    del directory.SeriesInstanceUID
    directory.save_as(folder / "DICOMDIR")
    assert paths(folder) == sorted(series.paths)


def test_pipe(series: SyntheticSeries) -> None:
    os.mkfifo(series.folder / "pipe.dcm")  # to open it would block for ever
    assert paths(series.folder) == sorted(series.paths)


@pytest.mark.parametrize("suffix", [".dcm", ""])
@pytest.mark.parametrize("with_meta", [True, False])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_without_the_prefix(suffix: str, with_meta: bool, syntax: pydicom.uid.UID, tmp_path: Path) -> None:
    series = write_series(tmp_path / "series")
    for path in series.paths:
        data = pydicom.dcmread(path)
        data.file_meta.TransferSyntaxUID = syntax
        data.save_as(path)
        content = path.read_bytes()[132:]
        if not with_meta:
            content = content[content.index(b"\x08\0\x08\0") :]  # ImageType, the first element
        path.write_bytes(content)
        path.rename(path.with_suffix(suffix))
    found = read_dicom_series(series.folder)
    assert found.files == tuple(path.with_suffix(suffix) for path in series.paths)
    np.testing.assert_array_equal(found.image[0].numpy(), series.stored.transpose(2, 1, 0))
    mask = np.ones(found.image.shape[1:], np.uint8)
    write_dicom_seg(tmp_path / "seg.dcm", mask, found, SEGMENTS, **ARGUMENTS)
    np.testing.assert_array_equal(read_dicom_seg(tmp_path / "seg.dcm", found), mask)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has no DICOM prefix and does not begin as DICOM does"),
        (b"no DICOM" * 50, "has no DICOM prefix"),
        (b"\x08\0\x05\0", "has no DICOM prefix"),
        (b"\x08\0\x05\0CS\x0a\0ISO_IR 100" + b"\x08\0\x60\0CS\x02\0MR" * 20, "has no SeriesInstanceUID"),
    ],
)
@pytest.mark.parametrize("suffix", [".dcm", ".DICOM", ".ima"])
def test_no_dicom_by_the_name_of_it(content: bytes, message: str, suffix: str, series: SyntheticSeries) -> None:
    path = series.folder / f"a{suffix}"
    path.write_bytes(content)
    with pytest.raises(SeriesError, match=f"{path}: {message}.*expected"):
        read_folder_headers(series.folder)


@pytest.mark.parametrize("number", [200, 500])
def test_truncated_without_prefix_and_suffix(number: int, series: SyntheticSeries) -> None:
    content = series.paths[0].read_bytes()[132:]
    (series.folder / "IM9").write_bytes(content[:number])
    with pytest.raises(SeriesError, match="IM9"):
        read_folder_headers(series.folder)


def test_link_to_nothing(series: SyntheticSeries) -> None:
    series.paths[-1].unlink()
    series.paths[-1].symlink_to(series.folder / "gone")
    with pytest.raises(SeriesError, match="cannot be read .FileNotFoundError"):
        read_folder_headers(series.folder)


def test_no_series(tmp_path: Path) -> None:
    with pytest.raises(SeriesError, match="is no folder"):
        read_folder_headers(tmp_path / "gone")
    (tmp_path / "notes.txt").write_text("no DICOM")
    with pytest.raises(SeriesError, match="holds no DICOM file"):
        read_folder_headers(tmp_path)
    with pytest.raises(SeriesError, match="is no folder"):
        read_folder_headers(tmp_path / "notes.txt")
