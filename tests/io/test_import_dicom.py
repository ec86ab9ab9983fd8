# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from monai_segdiff.io.dicom_series import read_dicom_series
from monai_segdiff.io.import_dicom import import_dicom


def test_module() -> None:
    import pydicom.uid

    assert import_dicom("pydicom.uid") is pydicom.uid


@pytest.mark.parametrize("name", ["pydicom", "highdicom", "itk"])
def test_message_says_how_to_install(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=rf"{name}.*pip install 'monai_segdiff\[dicom\]'"):
        import_dicom(name)


def test_reader_says_how_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(ImportError, match="pip install 'monai_segdiff.dicom.'"):
        read_dicom_series(tmp_path)


def test_package_does_without() -> None:
    program = """if True:
        import sys
        sys.modules.update(dict.fromkeys(["pydicom", "highdicom", "itk"]))
        import monai_segdiff
        from monai_segdiff.io import dicom_seg, dicom_seg_reader, dicom_series, segment_code
    """
    subprocess.run([sys.executable, "-c", program], check=True)
