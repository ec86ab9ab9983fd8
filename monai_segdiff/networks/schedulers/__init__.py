# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from .categorical import CategoricalScheduler
from .ddps_schedules import ddps_cosine, ddps_linear
from .noise_schedules import segdiff_linear_beta
from .respaced import RespacedScheduler
from .respaced_ddim import RespacedDDIMScheduler
from .respaced_ddpm import RespacedDDPMScheduler
from .respaced_dpm_solver import RespacedDPMSolverScheduler

__all__ = [
    "CategoricalScheduler",
    "RespacedDDIMScheduler",
    "RespacedDDPMScheduler",
    "RespacedDPMSolverScheduler",
    "RespacedScheduler",
    "ddps_cosine",
    "ddps_linear",
    "segdiff_linear_beta",
]
