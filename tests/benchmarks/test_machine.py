# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import platform

import torch

from benchmarks.machine import machine


def test_the_cpu() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = machine(torch.device("cpu"))
    finally:
        torch.set_num_threads(threads)
    assert found.pop("name") in (platform.processor(), platform.machine())
    assert found == {"device": "cpu", "threads": 1, "torch": torch.__version__}
    json.dumps(found)
