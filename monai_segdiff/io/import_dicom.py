# SPDX-License-Identifier: Apache-2.0
"""The packages of the extra ``dicom``, which the rest of the package does without."""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["import_dicom"]


def import_dicom(name: str) -> Any:
    """Import a module of pydicom, highdicom or ITK.

    Args:
        name: the module, for instance ``"highdicom.seg"``.

    Raises:
        ImportError: it is not installed; the message says how to.

    Example:
        >>> import_dicom("pydicom.uid").MRImageStorage.name
        'MR Image Storage'
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"DICOM files need {name}, which cannot be imported ({error}): pip install 'monai_segdiff[dicom]'"
        ) from error
