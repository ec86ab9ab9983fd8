# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re
from pathlib import Path

import pytest

from monai_segdiff.cli.list_inputs import list_inputs
from monai_segdiff.exceptions import DatasetError

DICOM = b"\0" * 128 + b"DICM"


def write(folder: Path, **files: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_bytes(content)
    return folder


@pytest.mark.parametrize(
    ("spatial_dims", "names", "expected"),
    [
        (2, ["b__png", "a__tif", "notes__txt"], {"a": "a.tif", "b": "b.png"}),
        (2, ["a__1__png"], {"a.1": "a.1.png"}),
        (3, ["b__nii", "a__nii__gz", "c__png"], {"a": "a.nii.gz", "b": "b.nii"}),
    ],
)
def test_files_of_a_folder(spatial_dims: int, names: list[str], expected: dict[str, str], tmp_path: Path) -> None:
    write(tmp_path, **dict.fromkeys(names, b""))
    found = list_inputs(tmp_path, spatial_dims)
    assert list(found.items()) == [(name, str(tmp_path / file)) for name, file in expected.items()]


@pytest.mark.parametrize(("spatial_dims", "file"), [(2, "a__jpg"), (3, "a__nii__gz")])
def test_one_file(spatial_dims: int, file: str, tmp_path: Path) -> None:
    path = write(tmp_path, **{file: b"", f"b{file[1:]}": b""}) / file.replace("__", ".")
    assert list_inputs(path, spatial_dims) == {"a": str(path)}


def test_a_series_is_known_by_its_content_and_named_by_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path / "1.2.840", IM1=DICOM, notes__txt=b"text")
    (folder / "empty").mkdir()
    assert list_inputs(folder, 3) == {"1.2.840": str(folder)}
    monkeypatch.chdir(folder)
    assert list_inputs(".", 3) == {"1.2.840": str(folder)}


@pytest.mark.parametrize(
    ("spatial_dims", "files", "message"),
    [
        (2, {}, r"holds no image; expected files with \.tif"),
        (2, {"IM1": DICOM}, r"holds no image; expected files with \.tif"),
        (2, {"a__png": b"", "a__tif": b""}, "two files of the name 'a'"),
        (
            3,
            {"a__png": b""},
            r"expected files with \.nii.* A folder with a DICOM series will do as well\.$",
        ),
        (3, {"IM1": DICOM[:-1]}, r"holds no image; expected files with \.nii"),
        (3, {"a__nii": b"", "IM1": DICOM}, "holds NIfTI and DICOM files; expected one kind"),
        (3, {"a__nii": b"", "a__nii__gz": b""}, "two files of the name 'a'"),
    ],
)
def test_what_cannot_be_listed(spatial_dims: int, files: dict[str, bytes], message: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=message) as raised:
        list_inputs(write(tmp_path / "in", **files), spatial_dims)
    assert str(tmp_path / "in") in str(raised.value)


@pytest.mark.parametrize(
    ("spatial_dims", "subfolder", "suffix", "other"),
    [(2, "images", ".png", ".nii"), (2, "Tissue Images", ".tif", ".nii"), (3, "imagesTs", ".nii.gz", ".png")],
)
def test_images_in_a_folder_and_in_its_subfolder(
    spatial_dims: int, subfolder: str, suffix: str, other: str, tmp_path: Path
) -> None:
    """The subfolder alone would be taken."""
    folder = write(tmp_path / "in", **{f"._hidden{suffix}": b"", f"a{other}": b""})
    inner = write(folder / subfolder, **{f"b{suffix}": b""})
    assert list_inputs(folder, spatial_dims) == {"b": str(inner / f"b{suffix}")}
    (folder / f"a{suffix}").write_bytes(b"")
    message = f"{folder}: holds images (a{suffix}), and so does {inner}; expected one place"
    with pytest.raises(DatasetError, match=f"^{re.escape(message)}[^\n]*files\\.$"):
        list_inputs(folder, spatial_dims)
    assert list_inputs(inner, spatial_dims) == {"b": str(inner / f"b{suffix}")}
    listed = tmp_path / "list.txt"
    listed.write_text(f"in/a{suffix}\nin/{subfolder}/b{suffix}\n")
    assert list(list_inputs(listed, spatial_dims)) == ["a", "b"]


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_what_does_not_exist(spatial_dims: int, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="nowhere: does not exist"):
        list_inputs(tmp_path / "nowhere", spatial_dims)
