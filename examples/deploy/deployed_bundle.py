# SPDX-License-Identifier: Apache-2.0
"""Which bundle with which weights segments."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from monai_segdiff.exceptions import BundleError
from monai_segdiff.io import segments_of_metadata

__all__ = ["DeployedBundle"]


class DeployedBundle:
    """The bundle in a folder, or in its only folder: packages of MONAI Deploy put each model into a folder of models.

    Args:
        path: folder.

    Attributes:
        path: folder of the bundle.
        name: name in its metadata.
        version: version in its metadata.
        modality: DICOM modality that it segments, in its metadata.
        segments: descriptions of its classes, from the first after the background.
        weights_sha256: SHA-256 of the file of the weights.
        uid: DICOM UID made of that hash; other weights have another.

    Raises:
        BundleError: there is no bundle or more than one, or it lacks its weights or something of the above.

    Example:
        >>> DeployedBundle("bundles/hippocampus").modality  # doctest: +SKIP
        'MR'
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        root = Path(path)
        found = [folder for folder in (root, *root.glob("*/")) if (folder / "configs" / "metadata.json").is_file()]
        if len(found) != 1:
            raise BundleError(f"{root}: holds {len(found)} bundles; expected one.")
        self.path = found[0]
        file, weights = (self.path / name for name in ("configs/metadata.json", "models/model.pt"))
        try:
            metadata = json.loads(file.read_text(encoding="utf-8"))
            self.name, self.version = str(metadata["name"]), str(metadata["version"])
            self.modality = str(metadata["network_data_format"]["inputs"]["image"]["modality"])
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError(f"{file}: cannot be used ({error!r}); expected metadata of a bundle.") from error
        self.segments = list(segments_of_metadata(metadata, str(file)).values())
        if not weights.is_file():
            raise BundleError(f"{weights}: does not exist; expected the weights of the bundle.")
        self.weights_sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()
        self.uid = f"2.25.{int(self.weights_sha256[:32], 16)}"
