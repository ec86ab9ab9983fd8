# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest
import typer

from monai_segdiff.cli.given_path import given_path


@pytest.mark.parametrize("text", [".", "a/b", "/a", " "])
def test_a_path(text: str) -> None:
    assert given_path(text) == Path(text)


def test_nothing_is_not_this_folder() -> None:
    with pytest.raises(typer.BadParameter, match="is empty"):
        given_path("")
