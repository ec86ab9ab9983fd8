# SPDX-License-Identifier: Apache-2.0
"""Seams between windows: independent windows against one mask that is denoised jointly.

Run ``python -m benchmarks.window_modes --help``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from tqdm import tqdm

from monai_segdiff import WindowPlan, atomic_write, segmentation_scores

from .bundle import Bundle, Item
from .command import command_parser, overrides_of, positive, readable_errors
from .table import format_table, write_json

__all__ = ["seam_ratio", "window_modes"]

MODES: dict[str, dict[str, Any]] = {
    "independent, no overlap (published)": {"overlap": 0.0, "mode": "constant", "window_mode": "independent"},
    "independent, blended": {"window_mode": "independent"},
    "joint": {"window_mode": "joint"},
}
EXAMPLE = "--dataset_dir VALIDATION --num_inference_steps 5"
# Pixels around a border that the picture shows.
HALF_WIDTH = 48


def seam_ratio(probability: torch.Tensor, borders: Sequence[Sequence[int]]) -> float:
    """Return how much more a probability map jumps across the borders of windows than elsewhere; 1 without seams.

    Args:
        probability: ``[H, W]``.
        borders: for each axis the first row or column behind a border, away from the image's own edge.

    Raises:
        ValueError: no border on any axis.
    """
    at_borders, elsewhere = [], []
    for axis, positions in enumerate(borders):
        jumps = probability.diff(dim=axis).abs()
        at_border = torch.zeros(jumps.shape[axis], dtype=torch.bool)
        at_border[[position - 1 for position in positions]] = True
        at_borders.append(jumps.index_select(axis, at_border.nonzero().flatten()).flatten())
        elsewhere.append(jumps.index_select(axis, (~at_border).nonzero().flatten()).flatten())
    if not any(len(jumps) for jumps in at_borders):
        raise ValueError("Expected at least one border between windows.")
    return float(torch.cat(at_borders).mean() / torch.cat(elsewhere).mean())


def window_modes(
    bundle: Bundle, dataset_dir: str | Path, weights: str | Path, output_dir: str | Path, num_images: int | None = None
) -> list[dict[str, Any]]:
    """Segment images in each window mode; write ``window_modes.json`` and ``window_modes.png``.

    The picture shows the first image where four windows of the published kind meet.

    Args:
        bundle: the bundle, with the steps and generations to sample with.
        dataset_dir: dataset to segment.
        weights: weights of the network.
        output_dir: folder to write to.
        num_images: take only the first images.

    Returns:
        One row for each mode: ``mode``, ``dice`` and ``seam_ratio``, means over the images.
    """
    network = bundle.network(weights)
    items = bundle.items(dataset_dir, [weights], num_images)
    divisor, rows = network.size_divisor, []
    shown: dict[str, torch.Tensor] = {}
    with tqdm(total=len(MODES) * len(items), unit="image") as bar:
        for name, changes in MODES.items():
            inferer, scores, seams = bundle.inferer(**changes), [], []
            for item in items:
                probability = inferer(item.image[None].to(bundle.device), network)[0].cpu()
                plan = WindowPlan(item.image.shape[1:], divisor=divisor, **inferer.windows)
                scores.append(_dice(probability, item, bundle.value("threshold")))
                seams.append(seam_ratio(probability[0], _borders(plan)))
                shown.setdefault(name, probability[0])
                bar.update()
            rows.append({"mode": name, "dice": float(np.mean(scores)), "seam_ratio": float(np.mean(seams))})
    output_dir = Path(output_dir)
    protocol = {name: bundle.value(name) for name in ("num_inference_steps", "num_generations", "window_size", "seed")}
    write_json(output_dir / "window_modes.json", {"images": len(items), **protocol, "rows": rows})
    _draw(output_dir / "window_modes.png", items[0], shown, bundle.value("window_size"))
    return rows


def _borders(plan: WindowPlan) -> list[list[int]]:
    """Return where windows begin or end inside the image, for each axis; the plan pads nothing here or evenly."""
    borders = []
    for axis, (size, padded) in enumerate(zip(plan.image_size, plan.padded_size, strict=True)):
        before = (padded - size) // 2
        edges = {edge - before for window in plan.windows for edge in (window[axis].start, window[axis].stop)}
        borders.append(sorted(edge for edge in edges if 0 < edge < size))
    return borders


def _dice(probability: torch.Tensor, item: Item, threshold: float) -> float:
    found = probability > threshold
    counts = (found & item.label, found & ~item.label, ~found & item.label)
    return segmentation_scores(*(int(count.sum()) for count in counts))["dice"]


def _draw(path: Path, item: Item, shown: dict[str, torch.Tensor], window_size: int) -> None:
    figure = Figure(figsize=(3.2 * (len(shown) + 1), 3.5), dpi=120, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    corner = [min(window_size, size - HALF_WIDTH) for size in item.image.shape[1:]]
    part = tuple(slice(center - HALF_WIDTH, center + HALF_WIDTH) for center in corner)
    index = (slice(None), *part)
    picture = item.image[index]
    picture = (picture - picture.amin()) / (picture.amax() - picture.amin())
    panels = {"image, true outlines": picture.permute(1, 2, 0), **{name: map_[part] for name, map_ in shown.items()}}
    for axes, (title, values) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        axes.imshow(values.numpy(), vmin=0, vmax=1, cmap="gray")
        axes.contour(item.label[0][part].numpy(), levels=[0.5], colors="#56B4E9", linewidths=0.8)
        for line in (axes.axhline, axes.axvline):
            line(HALF_WIDTH - 0.5, color="#E69F00", linewidth=0.8, linestyle="--")
        axes.set_title(title, fontsize=9)
        axes.set_axis_off()
    with atomic_write(path) as temporary:
        canvas.print_png(temporary)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = command_parser("benchmarks.window_modes", __doc__.splitlines()[0], EXAMPLE)
    parser.add_argument("--dataset_dir", required=True, help="dataset to segment")
    parser.add_argument("--ckpt", help="weights; default: those in the bundle")
    parser.add_argument("--num_inference_steps", type=positive, default=5, help="steps of the sampler (default 5)")
    parser.add_argument("--num_images", type=positive, help="take only the first images")
    parser.add_argument("--output_dir", default="benchmark_results", help="folder to write to")
    options: argparse.Namespace = parser.parse_args(arguments)
    with readable_errors(parser):
        bundle = Bundle({"num_inference_steps": options.num_inference_steps, **overrides_of(options)})
        ckpt = options.ckpt or bundle.root / "models" / "model.pt"
        rows = window_modes(bundle, options.dataset_dir, ckpt, options.output_dir, options.num_images)
    cells = [[row["mode"], f"{row['dice']:.4f}", f"{row['seam_ratio']:.2f}"] for row in rows]
    print(format_table([["windows", "Dice", "jump at borders / elsewhere"], *cells]))


if __name__ == "__main__":
    main()
