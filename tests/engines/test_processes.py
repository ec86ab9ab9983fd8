# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from monai_segdiff import start_processes, stop_processes

SCRIPT = """
import torch
from monai_segdiff import start_processes, stop_processes
start_processes()
total = torch.tensor([float(torch.distributed.get_rank() + 1)])
torch.distributed.all_reduce(total)
assert total.item() == 3, total
stop_processes()
assert not torch.distributed.is_initialized()
"""


def test_needs_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(RuntimeError, match="torchrun"):
        start_processes()


def test_nothing_to_leave() -> None:
    stop_processes()


@pytest.mark.end_to_end
def test_two_processes_join(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(tmp_path / "script.py")]
    done = subprocess.run([sys.executable, *launch], cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
