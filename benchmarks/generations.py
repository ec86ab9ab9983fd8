# SPDX-License-Identifier: Apache-2.0
"""Quality and calibration against the number of generations (figures 5 and 6 of arXiv 2112.00390).

Run ``python -m benchmarks.generations --help``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from monai_segdiff import SegDiffInferer, bootstrap_interval

from .bundle import Bundle
from .command import overrides_of, positive, readable_errors
from .generations_plot import draw_generations
from .image_scores import SCORES, image_scores, pooled_calibration
from .study import Setting, Study
from .study_options import check_steps, study_parser, weights_of
from .table import format_interval, format_table, write_csv

__all__ = ["generation_curve", "generation_orders", "generations"]

CALIBRATION = ("expected_calibration_error", "paper_calibration_score", "brier_score")
DESCRIPTION = """\
Score the mean of 1, 2, ... N generations, from one sampling of N generations of each image.

The first n of N generations are those that sampling n alone would give. Further, random orders of the N show how much
a small n owes to luck: every figure is the mean over the orders, +- their standard deviation. All orders end in the
same mean of N generations, so that towards N the deviation is smaller than between samplings.
Run it again to continue after an interruption."""
EXAMPLE = "--dataset_dir VALIDATION --weights ours=runs/monuseg/model.pt --steps 3 --max_generations 30"


def generation_orders(num_generations: int, num_orders: int) -> np.ndarray:
    """Return the orders in which generations are averaged: that of sampling, then random ones, the same every time.

    Returns:
        Indices, ``[num_orders, num_generations]``.
    """
    first = np.arange(num_generations)
    generator = np.random.default_rng(0)
    return np.stack([first, *(generator.permutation(first) for _ in range(num_orders - 1))])


def generation_curve(
    generations: np.ndarray, truth: np.ndarray, order: Sequence[int] | np.ndarray, threshold: float = 0.5
) -> list[dict[str, Any]]:
    """Score the mean of the first generation, of the first two, and so on.

    Args:
        generations: probabilities ``[N, H, W]``.
        truth: boolean ``[H, W]``.
        order: which generation is the first, the second, and so on.
        threshold: probability that foreground exceeds.

    Returns:
        :func:`~benchmarks.image_scores.image_scores` for each number of generations.
    """
    # In float64, so that the mean of equal float32 numbers is that number and never crosses the threshold.
    total, curve = np.zeros(truth.shape), []
    for count, index in enumerate(order, start=1):
        total += generations[index]
        curve.append(image_scores(total / count, truth, threshold))
    return curve


def generations(
    bundle: Bundle,
    dataset_dir: str | Path,
    weights: dict[str, str],
    output_dir: str | Path,
    steps: int = 3,
    max_generations: int = 30,
    num_orders: int = 10,
    num_images: int | None = None,
) -> list[dict[str, Any]]:
    """Score every file of weights for every number of generations; images that are already there are not sampled again.

    Writes ``generations.json`` (all results so far, for each image), ``generations.csv`` and ``generations.png`` (the
    results asked for).

    Args:
        bundle: the bundle; its sampler and windows are used.
        dataset_dir: dataset to score.
        weights: name and file of each network.
        output_dir: folder to write to.
        steps: steps of the sampler.
        max_generations: N.
        num_orders: orders of the generations to average over, see :func:`generation_orders`.
        num_images: take only the first images.

    Returns:
        For each file of weights, one row for each number of generations. Dice, IoU and boundary F are means over images
        and orders, with 95 % bootstrap intervals over images (``_low``, ``_high``); ``dice_change`` is the paired
        difference from one generation. The calibration scores are those of the pixels of all images, their mean over
        orders. ``_deviation`` is the standard deviation over orders (of the population), None with a single order.

    Raises:
        CheckpointError: weights are missing, damaged, or of another network.
        DatasetError: the dataset or earlier results cannot be used.
    """
    output_dir, setting = Path(output_dir), Setting(steps, max_generations)
    orders, threshold = generation_orders(max_generations, num_orders), bundle.value("threshold")

    def score(sampled: np.ndarray, truth: np.ndarray, _: Setting) -> dict[str, Any]:
        return {"curves": [generation_curve(sampled, truth, order, threshold) for order in orders]}

    study = Study(output_dir / "generations.json", bundle, dataset_dir, weights, num_images, num_orders=num_orders)
    study.run([setting], SegDiffInferer.generations, score)
    rows = []
    for arm in study.arms:
        curves = [image["curves"] for image in study.results(arm, setting)]
        names = {"weights": arm.name, "prediction_type": arm.bundle.value("prediction_type"), "steps": steps}
        for number in range(max_generations):
            rows.append({**names, "generations": number + 1, **_summary(curves, number)})
    write_csv(output_dir / "generations.csv", rows)
    draw_generations(output_dir / "generations.png", rows)
    return rows


def _summary(curves: list[list[list[dict[str, Any]]]], number: int) -> dict[str, Any]:
    """Summarise one place of the curves of all images and orders."""
    here = [[curve[number] for curve in image] for image in curves]
    values = {name: np.array([[scores[name] for scores in image] for image in here]) for name in SCORES}
    start = np.array([[curve[0]["dice"] for curve in image] for image in curves])
    summary = {"images": len(curves), "orders": len(curves[0])}
    for name in SCORES:
        summary |= _with_interval(name, values[name].mean(1)) | _deviation(name, values[name].mean(0))
    # Against the mean of the orders: a single generation alone is what luck changes most.
    summary |= _with_interval("dice_change", (values["dice"].mean(1) - start.mean(1)))
    pooled = [pooled_calibration(images) for images in zip(*here, strict=True)]
    for name in CALIBRATION:
        of_orders = np.array([scores[name] for scores in pooled])
        summary |= {name: float(of_orders.mean())} | _deviation(name, of_orders)
    return summary


def _with_interval(name: str, images: np.ndarray) -> dict[str, Any]:
    low, high = bootstrap_interval(images) or (None, None)
    return {name: float(images.mean()), f"{name}_low": low, f"{name}_high": high}


def _deviation(name: str, orders: np.ndarray) -> dict[str, Any]:
    return {f"{name}_deviation": float(orders.std()) if len(orders) > 1 else None}


def _table(rows: Sequence[dict[str, Any]]) -> str:
    lines = [
        ["weights", "generations", "Dice", "+-", "change, paired", "IoU", "boundary F"]
        + ["ECE", "paper cal.", "Brier"],
    ]
    for row in rows:
        change = format_interval(row["dice_change_low"], row["dice_change_high"], "+")
        deviation = row["dice_deviation"]
        lines.append(
            [row["weights"], str(row["generations"])]
            + [f"{row['dice']:.4f}", "-" if deviation is None else f"{deviation:.4f}"]
            + [f"{row['dice_change']:+.4f} ({change})", f"{row['iou']:.4f}", f"{row['boundary_f']:.4f}"]
            + [f"{row[name]:.5f}" for name in CALIBRATION]
        )
    return format_table(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command with the given words, default: those of the command line."""
    parser = study_parser("benchmarks.generations", DESCRIPTION, EXAMPLE)
    parser.add_argument("--steps", type=positive, default=3, help="steps of the sampler (default 3)")
    parser.add_argument("--max_generations", type=positive, default=30, help="N (default 30)")
    parser.add_argument(
        "--num_orders", type=positive, default=10, help="orders of the generations to average over (default 10)"
    )
    options = parser.parse_args(arguments)
    weights = weights_of(parser, options)
    with readable_errors(parser):
        bundle = Bundle(overrides_of(options))
        check_steps(parser, bundle, [options.steps])
        rows = generations(
            bundle,
            options.dataset_dir,
            weights,
            options.output_dir,
            options.steps,
            options.max_generations,
            options.num_orders,
            options.num_images,
        )
    print(_table(rows))
    print(
        f"Images: {rows[0]['images']}. Steps: {options.steps}. +-: deviation over {options.num_orders} order(s). "
        f"Change: of Dice against one generation, over the same images. Also in {options.output_dir}."
    )


if __name__ == "__main__":
    main()
