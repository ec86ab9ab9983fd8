# SPDX-License-Identifier: Apache-2.0
"""Diffusion segmentation for MONAI. Importing the package registers its components."""

from __future__ import annotations

from .data import *  # noqa: F403
from .engines import *  # noqa: F403
from .exporters import *  # noqa: F403
from .handlers import *  # noqa: F403
from .inferers import *  # noqa: F403
from .io import *  # noqa: F403
from .losses import *  # noqa: F403
from .metrics import *  # noqa: F403
from .networks import *  # noqa: F403
from .prediction import *  # noqa: F403
from .predictor import *  # noqa: F403
from .transforms import *  # noqa: F403
from .visualize import *  # noqa: F403
