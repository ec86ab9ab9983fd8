# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import pytest
import torch

from monai_segdiff.io.usable_device import usable_device


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu")])
def test_usable(device: Any) -> None:
    assert usable_device(device) == torch.device("cpu")


def test_auto_is_the_first_gpu_or_the_cpu() -> None:
    assert usable_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("device", ["gpu", "meta", None, "cuda:99", 1.5, "hpu", ""])
def test_not_usable(device: Any) -> None:
    with pytest.raises(ValueError, match=r"device is .*, which cannot be used here \(.*\); expected 'cpu' or 'auto'"):
        usable_device(device)
