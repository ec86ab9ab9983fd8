# SPDX-License-Identifier: Apache-2.0
"""Joining and leaving the processes that torchrun started."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist

__all__ = ["start_processes", "stop_processes"]


def start_processes() -> None:
    """Join the process group of ``torchrun``: NCCL with one GPU a process, gloo where there is none.

    Raises:
        RuntimeError: not started by ``torchrun``.
    """
    if "LOCAL_RANK" not in os.environ:
        raise RuntimeError(
            "Expected the environment of torchrun; start with: torchrun --nproc_per_node N -m monai.bundle"
        )
    if torch.cuda.is_available():
        # Collectives without an explicit device use the current one, which would be the first GPU in every process.
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
        dist.init_process_group("nccl", device_id=device)
    else:
        dist.init_process_group("gloo")


def stop_processes() -> None:
    """Leave the process group together, if there is one.

    The first process writes the last files alone; another that left meanwhile may abort while gloo's threads still run.
    """
    if dist.is_available() and dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()
