# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re

import pytest
import torch

from monai_segdiff.cli.check_device import check_device


@pytest.mark.parametrize(("available", "expected"), [(False, "cpu"), (True, "cuda")])
def test_auto_takes_a_gpu_if_there_is_one(available: bool, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    assert check_device("auto") == expected


def test_a_device_that_is_there() -> None:
    assert check_device("cpu") == "cpu"


@pytest.mark.parametrize("name", ["cuda:99", "cuda:01", "mps"])
def test_a_device_that_is_not(name: str) -> None:
    with pytest.raises(ValueError, match=f"device is {name!r}, which cannot be used here") as e:
        check_device(name)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    "name", ["", "gpu", "meta", "cpu:-2", "cpu:0", "cuda:", "cuda:x", "CPU", "cpu\n", "xpu", "hpu"]
)
def test_what_is_no_device_that_computes_here(name: str) -> None:
    with pytest.raises(
        ValueError, match=f"--device is {re.escape(repr(name))}; expected auto, cpu, cuda, cuda:N or mps"
    ):
        check_device(name)
