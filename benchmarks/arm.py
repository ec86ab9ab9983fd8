# SPDX-License-Identifier: Apache-2.0
"""One of the networks that a study compares."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

from monai_segdiff.exceptions import CheckpointError

from .bundle import Bundle
from .remembered_features import RememberedFeatures

__all__ = ["Arm"]


class Arm(NamedTuple):
    """One file of weights, and the bundle as it was trained.

    Attributes:
        name: what the user calls it.
        sha256: digest of the file, by which its results are found again.
        bundle: the bundle, predicting what the ``.json`` beside the file says.
        network: on the bundle's device, in evaluation mode.
    """

    name: str
    sha256: str
    bundle: Bundle
    network: RememberedFeatures

    @classmethod
    def load(cls, bundle: Bundle, name: str, path: str) -> Arm:
        """Read a file of weights.

        Raises:
            CheckpointError: it is missing, damaged, or of another network.
        """
        if not Path(path).is_file():
            raise CheckpointError(f"Checkpoint {path} does not exist.")
        bundle = bundle.for_weights(path)
        digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
        return cls(name, digest, bundle, RememberedFeatures(bundle.network(path)))
