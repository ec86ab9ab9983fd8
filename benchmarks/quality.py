# SPDX-License-Identifier: Apache-2.0
"""The table of segmentation quality: bundles side by side, on the same images and the same grid.

Run ``python -m benchmarks.quality --help``.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from monai_segdiff import atomic_write, evaluation_datalist, monuseg_datalist, with_instances
from monai_segdiff.exceptions import DatasetError

from .bundle import MONUSEG
from .command import command_parser, override, overrides_of, positive, readable_errors
from .machine import machine
from .quality_image import QualityImage
from .quality_plot import choose_images, draw_quality
from .quality_row import QualityRow
from .quality_scores import quality_scores
from .quality_table import PUBLISHED, format_quality, summarize_quality
from .result_store import ResultStore
from .table import write_json

__all__ = ["quality"]

SIZE = 512
FILES = ("image", "label", "instances")
UNET = "U-Net"
MODELS, DDPS = MONUSEG / "models", MONUSEG.with_name("monuseg_ddps")
# Name, folder and settings.
DEFAULT_ROWS: dict[str, tuple[Path, dict[str, Any]]] = {
    "SegDiff": (MONUSEG, {}),
    UNET: (MONUSEG, {"config": "unet", "ckpt": str(MODELS / "unet.pt")}),
    "SegDiff at 512": (MONUSEG, {"config": "fast", "ckpt": str(MODELS / "model_512.pt")}),
    "U-Net at 512": (DDPS, {"num_inference_steps": 0}),
    "DDPS at 512": (DDPS, {}),
}
DESCRIPTION = """\
Score the weights of bundles on the same images, and write the table of their quality.

A row is a bundle with settings. Without options these are the released weights: SegDiff and U-Net at native resolution
(bundles/monuseg), and for images of 512 pixels SegDiff (its fast.json), U-Net and DDPS (bundles/monuseg_ddps, and its
base alone). A further --row adds one, or replaces the one of its name:

  --row "SegDiff, flips=bundles/monuseg" num_generations=8 flips=true
  --row U-Net=bundles/monuseg config=unet ckpt=runs/unet/model.pt

Settings are entries of the bundle's configs; config is a further config file that goes over them, ckpt the file of
weights, and flips=true takes the mean over the eight flips and turns of each image. All rows are scored at 512x512,
whatever the scale at which their networks work and the size of an image (the bundle's evaluation takes 0.512 of it).
Images that trained any of the networks, by the split.json beside its weights, are left out. Run again to continue."""
EXAMPLE = "--dataset_dir VALIDATION --row 'SegDiff, flips=bundles/monuseg' flips=true"


def quality(
    rows: Sequence[QualityRow],
    dataset_dir: str | Path,
    output_dir: str | Path,
    baseline: str = UNET,
    num_images: int | None = None,
    size: int = SIZE,
) -> dict[str, Any]:
    """Score every row on every image; what is already there is not computed again.

    Writes ``images.json`` (all results so far), ``quality.json`` (what is returned), ``quality.md`` (the table) and
    ``quality.png`` (the best, the median and the worst image of the first row).

    Args:
        rows: what to score, of different names.
        dataset_dir: a folder that :func:`monai_segdiff.monuseg_datalist` knows, with objects told apart, as
            :func:`monai_segdiff.with_instances` finds them. Images that trained any of the rows are left out.
        output_dir: folder to write to.
        baseline: name of the row from which the others' Dice is told apart.
        num_images: take only the first images.
        size: of the grid on which masks are compared.

    Returns:
        ``protocol`` (grid, hardware, files and their contents), ``baseline``, ``rows`` (name, facts, and what
        :func:`~benchmarks.quality_table.summarize_quality` returns), and ``published``.

    Raises:
        DatasetError: the dataset or earlier results cannot be used, or no image remains.
        ImageError: a picture cannot be read.
        AnnotationError: a mask cannot be read, or has not the size of its picture.
        ValueError: there is no row of the baseline's name.
    """
    by_name = {row.name: row for row in rows}
    if baseline not in by_name:
        raise ValueError(f"baseline is {baseline!r}, expected one of {list(by_name)}.")
    output_dir = Path(output_dir)
    entries, left_out = _untrained(dataset_dir, rows)
    entries = with_instances(entries[:num_images])
    contents = [{f"{key}_sha256": _sha256(entry[key]) for key in FILES} for entry in entries]
    protocol = {"size": size, **machine(rows[0].bundle.device)}
    store = ResultStore(output_dir / "images.json", protocol, (*rows[0].key, *contents[0]))
    images = [QualityImage.load(rows[0].bundle, entry, size) for entry in entries]
    found: dict[str, list[dict[str, Any]]] = {row.name: [] for row in rows}
    with tqdm(total=len(rows) * len(entries), unit="image", desc="scoring") as progress:
        for row, (entry, image, content) in product(rows, list(zip(entries, images, contents, strict=True))):
            progress.set_postfix_str(f"{row.name}, {entry['name']}")
            key = {**row.key, **content}
            if store.find(**key) is None:
                probability, seconds = row.segment(entry, size)
                scores = quality_scores(probability, image, row.bundle.value("threshold"))
                store.add({"row": row.name, "name": entry["name"], **key, "seconds": seconds, **scores})
            stored = store.find(**key)
            assert stored is not None, "it has just been added"
            # The same contents may have been scored under other names.
            own = {name: value for name, value in stored.items() if name not in (*store.keys, "row")}
            found[row.name].append({**own, "name": entry["name"]})
            progress.update()
    rows_found = []
    for row in rows:
        others = None if row.name == baseline else found[baseline]
        rows_found.append({"name": row.name, **row.facts, **summarize_quality(found[row.name], others)})
    files = [
        {"name": entry["name"], **{key: Path(entry[key]).name for key in FILES}, **content}
        for entry, content in zip(entries, contents, strict=True)
    ]
    report = {
        "protocol": {**protocol, "training_images_left_out": left_out, "images": files},
        "baseline": baseline,
        "rows": rows_found,
        "published": list(PUBLISHED),
    }
    write_json(output_dir / "quality.json", report)
    with atomic_write(output_dir / "quality.md") as temporary:
        temporary.write_text(format_quality(report), encoding="utf-8")
    draw_quality(output_dir / "quality.png", _panels(rows[0], found[rows[0].name], entries, images, size))
    return report


def _panels(
    row: QualityRow,
    found: Sequence[Mapping[str, Any]],
    entries: Sequence[Mapping[str, str]],
    images: Sequence[QualityImage],
    size: int,
) -> list[tuple[str, QualityImage, torch.Tensor]]:
    """Segment the images to be drawn once more: masks are not kept, and come out the same again."""
    panels = []
    for index, called in choose_images([image["dice"] for image in found]).items():
        mask = row.segment(entries[index], size)[0] > row.bundle.value("threshold")
        panels.append((f"{called}: {found[index]['name']}\nDice {found[index]['dice']:.4f}", images[index], mask))
    return panels


def _untrained(dataset_dir: str | Path, rows: Sequence[QualityRow]) -> tuple[list[dict[str, str]], int]:
    """Return the images that trained none of the networks, and the number of others."""
    everything = monuseg_datalist(dataset_dir)
    kept = [
        {entry["name"] for entry in evaluation_datalist(dataset_dir, split)} for split in {row.split for row in rows}
    ]
    entries = [entry for entry in everything if all(entry["name"] in names for names in kept)]
    if not entries:
        raise DatasetError(f"{dataset_dir}: each image trained one of the networks, expected at least one other.")
    return entries, len(everything) - len(entries)


def _sha256(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _rows(parser: argparse.ArgumentParser, options: argparse.Namespace) -> list[QualityRow]:
    wanted, given = dict(DEFAULT_ROWS), [words[0][0] for words in options.row]
    if len(set(given)) < len(given):
        parser.error("--row: the same name is given twice.")
    for (name, folder), *settings in options.row:
        if "device" in dict(settings):
            parser.error(f"--row {name}: all rows are computed on one device, give --device.")
        wanted[name] = (Path(str(folder)), dict(settings))
    if options.baseline not in wanted:
        parser.error(f"--baseline: there is no row {options.baseline!r}, only {', '.join(wanted)}.")
    overrides = overrides_of(options)
    return [QualityRow(name, folder, {**overrides, **settings}) for name, (folder, settings) in wanted.items()]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command with the given words, default: those of the command line."""
    parser = command_parser("benchmarks.quality", DESCRIPTION, EXAMPLE)
    parser.add_argument("--dataset_dir", required=True, help="dataset to score, without what any network trained on")
    parser.add_argument(
        "--row",
        action="append",
        nargs="+",
        default=[],
        type=override,
        metavar="NAME=VALUE",
        help="NAME=BUNDLE, then settings of the row; may be given several times",
    )
    parser.add_argument("--baseline", default=UNET, help="row to which the others are compared; default: U-Net")
    parser.add_argument("--num_images", type=positive, help="only the first images")
    parser.add_argument("--output_dir", default="benchmark_results/quality", help="folder to write to, and to continue")
    options = parser.parse_args(arguments)
    with readable_errors(parser):
        rows = _rows(parser, options)
        report = quality(rows, options.dataset_dir, options.output_dir, options.baseline, options.num_images)
    print(format_quality(report))
    print(f"Also in {options.output_dir}.")


if __name__ == "__main__":
    main()
