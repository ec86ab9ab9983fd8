# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest
import torch

from monai_segdiff.handlers import atomic_save


def test_saves_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "run" / "checkpoint.pt"
    for value in (1.0, 2.0):
        atomic_save({"weight": torch.full((2, 3), value)}, path)
        loaded = torch.load(path, weights_only=True)
        assert list(loaded) == ["weight"]
        assert torch.equal(loaded["weight"], torch.full((2, 3), value))
    assert [entry.name for entry in path.parent.iterdir()] == ["checkpoint.pt"]


class Unsaveable:
    def __reduce__(self) -> str:
        raise ValueError("cannot be pickled")


def test_failed_save_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    atomic_save({"weight": torch.ones(3)}, path)
    old = path.read_bytes()
    with pytest.raises(ValueError, match="cannot be pickled"):
        atomic_save({"weight": torch.zeros(10_000), "other": Unsaveable()}, path)
    assert path.read_bytes() == old
    assert [entry.name for entry in tmp_path.iterdir()] == ["checkpoint.pt"]
