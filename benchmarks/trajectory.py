# SPDX-License-Identifier: Apache-2.0
"""Quality of the predicted clean mask after each step of the sampler (figure 4 of arXiv 2112.00390).

Run ``python -m benchmarks.trajectory --help``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from monai_segdiff import SegDiffInferer

from .bundle import Bundle
from .command import overrides_of, positive, readable_errors
from .image_scores import image_scores, pooled_scores
from .score_table import flat_scores
from .study import Setting, Study
from .study_options import check_steps, study_parser, weights_of
from .table import format_table, write_csv
from .trajectory_plot import draw_trajectory

__all__ = ["settled_step", "trajectory"]

TOLERANCE = 0.005
DESCRIPTION = f"""\
Score what the sampler takes for the clean mask after each of its steps; the last one is the result.

Several generations are averaged at every step. A network is settled at the first step from which on Dice stays within
{TOLERANCE} of that of the last. The sampler is that of the bundle; the published one is
  --override scheduler#_target_=monai_segdiff.RespacedDDPMScheduler scheduler#clip_sample=false
Run it again to continue after an interruption."""
EXAMPLE = "--dataset_dir VALIDATION --weights ours=runs/monuseg/model.pt --steps 100"


def trajectory(
    bundle: Bundle,
    dataset_dir: str | Path,
    weights: dict[str, str],
    output_dir: str | Path,
    steps: int = 100,
    num_generations: int = 1,
    num_images: int | None = None,
) -> list[dict[str, Any]]:
    """Score every file of weights after every step; images that are already there are not sampled again.

    Writes ``trajectory.json`` (all results so far, for each image), ``trajectory.csv`` and ``trajectory.png`` (the
    results asked for).

    Args:
        bundle: the bundle; its sampler and windows are used.
        dataset_dir: dataset to score.
        weights: name and file of each network.
        output_dir: folder to write to.
        steps: steps of the sampler.
        num_generations: generations to average.
        num_images: take only the first images.

    Returns:
        For each file of weights, one row for each step, in the order of sampling: ``step`` from 1, ``timestep``, and
        the scores of :func:`~benchmarks.score_table.flat_scores`, ``dice_change`` against the last step.

    Raises:
        CheckpointError: weights are missing, damaged, or of another network.
        DatasetError: the dataset or earlier results cannot be used.
    """
    output_dir, setting, threshold = Path(output_dir), Setting(steps, num_generations), bundle.value("threshold")

    def score(masks: np.ndarray, truth: np.ndarray, _: Setting) -> dict[str, Any]:
        return {"curve": [image_scores(mask, truth, threshold) for mask in masks]}

    study = Study(output_dir / "trajectory.json", bundle, dataset_dir, weights, num_images)
    study.run([setting], SegDiffInferer.trajectory, score)
    rows = []
    for arm in study.arms:
        curves = [image["curve"] for image in study.results(arm, setting)]
        of_steps = [pooled_scores(images) for images in zip(*curves, strict=True)]
        names = {"weights": arm.name, "prediction_type": arm.bundle.value("prediction_type"), **setting._asdict()}
        timesteps = arm.bundle.inferer(num_inference_steps=steps).scheduler.timesteps.tolist()
        for step, (timestep, scores) in enumerate(zip(timesteps, of_steps, strict=True), start=1):
            place = {"step": step, "timestep": timestep, "images": len(curves)}
            rows.append({**names, **place, **flat_scores(scores, of_steps[-1])})
    write_csv(output_dir / "trajectory.csv", rows)
    draw_trajectory(output_dir / "trajectory.png", rows)
    return rows


def settled_step(values: Sequence[float], tolerance: float = TOLERANCE) -> int:
    """Return the first step, from 1, from which on all values lie within a tolerance of the last.

    Example:
        >>> settled_step([0.1, 0.8, 0.6, 0.79, 0.8], tolerance=0.05)
        4
    """
    unsettled = [step for step, value in enumerate(values, start=1) if abs(value - values[-1]) > tolerance]
    return max(unsettled, default=0) + 1


def _table(rows: Sequence[dict[str, Any]]) -> str:
    """One line for each file of weights: a hundred steps are better looked at in the picture."""
    lines = [["weights", "predicts", "first step", "best step", "last step", "last - best", "IoU, last", "settled at"]]
    for name in dict.fromkeys(row["weights"] for row in rows):
        steps = [row for row in rows if row["weights"] == name]
        dice = [row["dice"] for row in steps]
        best = int(np.argmax(dice))
        lines.append(
            [name, steps[0]["prediction_type"], f"{dice[0]:.4f}", f"{dice[best]:.4f} ({best + 1})", f"{dice[-1]:.4f}"]
            + [f"{dice[-1] - dice[best]:+.4f}", f"{steps[-1]['iou']:.4f}", f"{settled_step(dice)} of {len(dice)}"]
        )
    return format_table(lines, left=2)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command with the given words, default: those of the command line."""
    parser = study_parser("benchmarks.trajectory", DESCRIPTION, EXAMPLE)
    parser.add_argument("--steps", type=positive, default=100, help="steps of the sampler (default 100)")
    parser.add_argument("--generations", type=positive, default=1, help="generations to average (default 1)")
    options = parser.parse_args(arguments)
    weights = weights_of(parser, options)
    with readable_errors(parser):
        bundle = Bundle(overrides_of(options))
        check_steps(parser, bundle, [options.steps])
        asked = (options.steps, options.generations, options.num_images)
        rows = trajectory(bundle, options.dataset_dir, weights, options.output_dir, *asked)
    print(_table(rows))
    print(
        f"Dice of {rows[0]['images']} images after a step of the sampler, {options.generations} generation(s). "
        f"Also, for every step, in {options.output_dir}."
    )


if __name__ == "__main__":
    main()
