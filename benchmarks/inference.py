# SPDX-License-Identifier: Apache-2.0
"""Quality and cost of inference: the released procedure, each change to it, and the bundle's defaults, side by side.

Run ``python -m benchmarks.inference --help``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from monai_segdiff import bootstrap_interval, segmentation_scores
from monai_segdiff.exceptions import DatasetError

from .bundle import Bundle, Item
from .command import command_parser, overrides_of, positive, readable_errors
from .cost import Macs, bundle_macs, peak_rate
from .image_scores import overlap_counts
from .inference_plot import draw_inference
from .inference_table import format_inference, with_ratios
from .machine import machine
from .measurement import Job, Measurement, measure_isolated
from .procedures import Procedure, procedures, released_window
from .table import write_json

__all__ = ["compare_inference"]

# A full image that is expected to take no longer is measured, not computed from a crop.
FULL_SECONDS = 60.0
SHIPPED = "models/model.pt"
EXAMPLE = "--dataset_dir VALIDATION --num_images 2 --window_limit 1 --extras"


def compare_inference(
    bundle: Bundle,
    items: Sequence[Item],
    weights: str | None,
    rows: Sequence[Procedure],
    window_limit: int | None = None,
    passes_limit: int | None = None,
    measure: Callable[[Job], Measurement] = measure_isolated,
    report: Callable[[list[dict[str, Any]]], None] = lambda done: None,
) -> list[dict[str, Any]]:
    """Measure procedures on the same images.

    Args:
        bundle: the bundle.
        items: images, with labels.
        weights: file of weights; None: random weights, whose masks are not scored.
        rows: procedures; the first is what the others are compared with.
        window_limit: crop each image to so many windows of the released procedure, in its centre. All procedures run on
            the crops; for the whole of the first image passes and multiply-accumulates are counted, and the time is
            measured where it is short and otherwise scaled by the number of passes.
        passes_limit: run at most about so many passes over each window, of one image, and scale their time. The masks
            of procedures that this shortens are not scored.
        measure: how to measure; by default each procedure in its own process.
        report: called after every procedure with the rows so far.

    Returns:
        One row for each procedure, in order.
    """
    cropped = [_crop(item, window_limit, released_window(bundle)) for item in items]
    macs = {window: bundle_macs(bundle, window) for window in {procedure.window(bundle) for procedure in rows}}
    done: list[dict[str, Any]] = []
    first_masks: list[np.ndarray] = []
    with tqdm(rows, unit="procedure") as progress:
        for procedure in progress:
            progress.set_description(procedure.name)
            job = Job(
                images=tuple(item.image.numpy() for item in cropped),
                overrides=bundle.overrides,
                weights=weights,
                arguments=procedure.arguments,
                channels_last=procedure.channels_last,
                full_size=tuple(items[0].image.shape[1:]),
                passes_limit=passes_limit,
            )
            found = measure(job)
            masks = [probability > bundle.value("threshold") for probability in found.probabilities] if weights else []
            first_masks = first_masks or (masks if not done else [])
            window = procedure.window(bundle)
            row = {"key": procedure.key, "name": procedure.name, "window": window}
            row |= _quality(masks, first_masks, cropped)
            row |= {**_cost(found, macs[window]), "full_image": _full(job, found, macs[window], items[0], measure)}
            done.append(row)
            report(done)
    return done


def _crop(item: Item, windows: int | None, size: int) -> Item:
    """Cut out the centre, so large that ``windows`` windows without overlap fill it; in rows of equal length."""
    if windows is None:
        return item
    lines = next(number for number in range(int(windows**0.5), 0, -1) if windows % number == 0)
    shape, wanted = item.image.shape[1:], (lines * size, windows // lines * size)
    if any(small > large for small, large in zip(wanted, shape, strict=True)):
        raise DatasetError(
            f"{item.name}: {windows} windows cover {wanted} pixels, the image has {tuple(shape)}; expected fewer."
        )
    corners = [(large - small) // 2 for small, large in zip(wanted, shape, strict=True)]
    inside = (slice(corner, corner + small) for corner, small in zip(corners, wanted, strict=True))
    index = (slice(None), *inside)
    return Item(item.name, item.image[index].contiguous(), item.label[index])


def _quality(masks: Sequence[np.ndarray], first: Sequence[np.ndarray], items: Sequence[Item]) -> dict[str, Any]:
    """Scores against the labels, and how many pixels were decided otherwise than by the first procedure."""
    quality: dict[str, Any] = {"dice": None, "iou": None, "changed_pixels": None}
    if masks:
        pairs = zip(masks, items, strict=True)
        scores = [segmentation_scores(*overlap_counts(mask, item.label[0].numpy())) for mask, item in pairs]
        for name in ("dice", "iou"):
            values = [score[name] for score in scores]
            quality[name] = {"value": sum(values) / len(values), "interval": bootstrap_interval(values)}
            quality[name]["images"] = values
    if masks and first:
        quality["changed_pixels"] = float(np.mean([np.mean(a != b) for a, b in zip(masks, first, strict=True)]))
    return quality


def _cost(found: Measurement, macs: Macs) -> dict[str, Any]:
    return {
        "encoder_passes": found.passes.encoder,
        "denoiser_passes": found.passes.denoiser,
        "macs": macs.of(found.passes),
        "seconds": found.seconds,
        "seconds_are_scaled": found.scaled,
        "peak_memory": found.peak_memory,
        "loaded_memory": found.loaded_memory,
    }


def _full(
    job: Job, found: Measurement, macs: Macs, item: Item, measure: Callable[[Job], Measurement]
) -> dict[str, Any]:
    """Cost of a whole image, measured if that does not take long."""
    whole = job.images[0].shape == item.image.shape
    seconds, scaled = (found.seconds, found.scaled) if whole else (found.full_seconds, True)
    if scaled and seconds <= FULL_SECONDS:
        again = measure(replace(job, images=(item.image.numpy(),), passes_limit=None))
        seconds, scaled = again.seconds, False
    passes = found.passes if whole else found.full_passes
    return {
        "size": list(item.image.shape[1:]),
        "encoder_passes": passes.encoder,
        "denoiser_passes": passes.denoiser,
        "macs": macs.of(passes),
        "seconds": seconds,
        "seconds_are_scaled": scaled,
    }


def _published(overrides: dict[str, Any]) -> dict[str, Any]:
    """Overrides that put the published network, and what it predicts, into the bundle, which keeps its own defaults."""
    paper = Bundle(extra_configs=("paper",))
    return {"network_def": paper.config("network_def"), "prediction_type": paper.value("prediction_type"), **overrides}


def _parser() -> argparse.ArgumentParser:
    description = "Compare the released inference procedure with each change to it, down to the bundle's defaults."
    parser = command_parser("benchmarks.inference", description, EXAMPLE)
    parser.add_argument("--dataset_dir", required=True, help="dataset with labels")
    given = parser.add_mutually_exclusive_group()
    given.add_argument("--ckpt", help="weights; default: those of the bundle")
    given.add_argument("--random_weights", action="store_true", help="measure the cost alone")
    parser.add_argument("--config", choices=["default", "paper"], default="default", help="the network; paper: 164 M")
    parser.add_argument("--num_images", type=positive, help="only the first images")
    parser.add_argument("--window_limit", type=positive, help="crop every image to so many windows, in its centre")
    parser.add_argument("--passes_limit", type=positive, help="time about so many passes a window, and scale")
    parser.add_argument("--extras", action="store_true", help="also compiled, and with joint windows")
    parser.add_argument("--rows", nargs="+", metavar="KEY", help="only these procedures, such as released default")
    parser.add_argument("--output_dir", default="benchmark_results", help="folder to write to")
    return parser


def _chosen(parser: argparse.ArgumentParser, rows: list[Procedure], keys: list[str] | None) -> list[Procedure]:
    unknown = sorted(set(keys or []) - {row.key for row in rows})
    if unknown:
        parser.error(f"--rows: {', '.join(unknown)} not known, expected some of {' '.join(row.key for row in rows)}.")
    return [row for row in rows if keys is None or row.key in keys]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command with the given words, default: those of the command line."""
    parser = _parser()
    options = parser.parse_args(arguments)
    with readable_errors(parser):
        overrides = overrides_of(options)
        bundle = Bundle(_published(overrides) if options.config == "paper" else overrides)
        weights = None if options.random_weights else options.ckpt or str(bundle.root / SHIPPED)
        if weights:
            bundle = bundle.for_weights(weights)
            bundle.network(weights)  # fails now, not after the first process has started
        items = bundle.items(options.dataset_dir, [weights] if weights else [], options.num_images)
        rows = _chosen(parser, procedures(bundle, options.extras), options.rows)
        path = Path(options.output_dir) / "inference.json"
        rate = peak_rate(bundle.device)
        head = {
            "machine": {**machine(bundle.device), "peak_macs_per_second": rate},
            "network": options.config,
            "weights": weights,
            "images": [item.name for item in items],
            "window_limit": options.window_limit,
            "passes_limit": options.passes_limit,
            "macs_of_a_pass": {size: bundle_macs(bundle, size)._asdict() for size in {r.window(bundle) for r in rows}},
        }

        def report(done: list[dict[str, Any]]) -> None:
            write_json(path, {**head, "rows": with_ratios(done, rate)})

        limits = (options.window_limit, options.passes_limit)
        done = compare_inference(bundle, items, weights, rows, *limits, measure_isolated, report)
    print(format_inference(with_ratios(done, rate)))
    if weights:
        draw_inference(path.with_suffix(".png"), done)
    print(f"Also in {options.output_dir}.")


if __name__ == "__main__":
    main()
