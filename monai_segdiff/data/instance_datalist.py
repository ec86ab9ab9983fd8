# SPDX-License-Identifier: Apache-2.0
"""Where the single objects of labelled images are recorded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..exceptions import DatasetError
from .monuseg import by_stem, find_subfolder, list_files, name_some

__all__ = ["with_instances"]

# A mask folder and a folder of instances lie side by side; annotations tell objects apart as well.
FOLDERS = {"instances": (".tif", ".tiff", ".png"), "annotations": (".xml",)}


def with_instances(datalist: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """Add the file of its instances to each entry of a data list.

    That is the label itself if it is an Aperio XML file, or else the file of the same name in ``instances/`` (tif or
    png) or ``annotations/`` (xml) beside the label's folder.

    Args:
        datalist: entries with ``name`` and ``label``, as :func:`~monai_segdiff.monuseg_datalist` gives.

    Returns:
        The entries with ``instances``, absolute paths.

    Raises:
        DatasetError: an image has no such file, or two; the message names the images and the places.

    Example:
        >>> with_instances(monuseg_datalist("monuseg/validation"))[0]["instances"]  # doctest: +SKIP
        '/data/monuseg/validation/instances/TCGA-BC-A217-01Z-00-DX1.tif'
    """
    found = {entry["name"]: _instances_of(Path(entry["label"])) for entry in datalist}
    missing = [name for name, path in found.items() if path is None]
    if missing:
        root = Path(datalist[0]["label"]).parent.parent
        raise DatasetError(
            f"{root}: no instances for {len(missing)} of {len(datalist)} images: {name_some(missing)}; expected an "
            "annotation (xml) as label, or a file of the same name in 'instances' (tif, png) or 'annotations' (xml)."
        )
    return [{**entry, "instances": str(found[entry["name"]])} for entry in datalist]


def _instances_of(label: Path) -> Path | None:
    if label.suffix.lower() == ".xml":
        return label
    for name, suffixes in FOLDERS.items():
        folder = find_subfolder(label.parent.parent, (name,))
        found = {} if folder is None else by_stem(list_files(folder, suffixes))
        if label.stem in found:
            return found[label.stem]
    return None
