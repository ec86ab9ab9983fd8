# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import typer

from monai_segdiff.cli.wrong_usage import wrong_usage
from monai_segdiff.exceptions import BundleError, CheckpointError, DatasetError


@pytest.mark.parametrize(
    "error", [BundleError, CheckpointError, DatasetError, ImportError, NotADirectoryError, PermissionError, ValueError]
)
def test_what_a_user_did_wrong_is_one_line(error: type[Exception], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as left, wrong_usage():
        raise error("a.png: is no bundle.\nTraceback")
    assert left.value.exit_code == 2
    assert capsys.readouterr() == ("", "Error: a.png: is no bundle.\n")


def test_what_this_package_did_wrong_is_not_hidden() -> None:
    with pytest.raises(AttributeError), wrong_usage():
        raise AttributeError("no attribute")


def test_nothing_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    with wrong_usage():
        pass
    assert capsys.readouterr() == ("", "")
