# SPDX-License-Identifier: Apache-2.0
"""How well the disagreement of generations finds the pixels that are wrong.

Run ``python -m benchmarks.uncertainty --help``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from monai_segdiff import SegDiffInferer, bootstrap_interval
from monai_segdiff.metrics.error_detection import compute_error_detection
from monai_segdiff.metrics.risk_coverage import area_under_risk_coverage, oracle_risk, risk_coverage_curve
from monai_segdiff.visualize.risk_coverage_plot import draw_risk_coverage

from .bundle import Bundle
from .command import overrides_of, positive, readable_errors
from .study import Setting, Study
from .study_options import check_steps, study_parser, weights_of
from .table import format_interval, format_table, write_csv

__all__ = ["error_finding", "uncertainty"]

MEASURES = ("standard_deviation", "entropy", "mutual_information")
SCORES = ("auroc", "area", "excess")
NUM_POINTS = 100
DESCRIPTION = """\
Score how well uncertainty finds the wrong pixels of the mean of several generations.

The uncertainties are the standard deviation of the generations, the entropy of their mean, and their mutual
information; a pixel is wrong where the thresholded mean differs from the truth. For each image:

  AUROC   the probability that a wrong pixel is more uncertain than a right one (ties: half); 0.5 is chance. It is not
          defined for an image without wrong or without right pixels, which is left out of its mean.
  AURC    the area under the risk-coverage curve: the share of wrong pixels among the surest ones, mean over all shares
          of pixels that are kept. Lower is better; uncertainty that says nothing has the share of wrong pixels.
  excess  AURC beyond that of the best possible order, which removes wrong pixels first. It allows to compare networks
          with different numbers of wrong pixels.

All are means over images, with 95 % bootstrap intervals over images. Run it again to continue."""
EXAMPLE = "--dataset_dir VALIDATION --weights ours=runs/monuseg/model.pt --steps 3 --generations 9"


def error_finding(statistics: np.ndarray, truth: np.ndarray, threshold: float = 0.5) -> dict[str, Any]:
    """Score the uncertainties of one image.

    Args:
        statistics: mean, standard deviation, entropy and mutual information of the generations, ``[4, H, W]``.
        truth: boolean ``[H, W]``.
        threshold: probability that foreground exceeds.

    Returns:
        ``error_rate``, the share of wrong pixels, and for each uncertainty by its name ``auroc`` (None if not defined),
        ``risk``, the :func:`~monai_segdiff.risk_coverage_curve` at 0.01, 0.02, ... 1, and its
        :func:`~monai_segdiff.area_under_risk_coverage`.

    Example:
        >>> right = error_finding(np.ones((4, 2, 2)), np.ones((2, 2), dtype=bool))
        >>> right["error_rate"], right["entropy"]["auroc"], right["entropy"]["area"]
        (0.0, None, 0.0)
    """
    wrong = (statistics[0] > threshold) != truth
    result: dict[str, Any] = {"error_rate": float(wrong.mean())}
    for name, values in zip(MEASURES, statistics[1:], strict=True):
        area_under_roc = compute_error_detection(*(torch.from_numpy(array)[None, None] for array in (values, wrong)))
        auroc = area_under_roc.item()
        coverage, risk = risk_coverage_curve(values, wrong, NUM_POINTS)
        areas = area_under_risk_coverage(coverage, risk)
        result[name] = {"auroc": None if np.isnan(auroc) else auroc, **areas, "risk": risk.tolist()}
    return result


def uncertainty(
    bundle: Bundle,
    dataset_dir: str | Path,
    weights: dict[str, str],
    output_dir: str | Path,
    steps: int = 3,
    num_generations: int = 9,
    num_images: int | None = None,
) -> list[dict[str, Any]]:
    """Score the uncertainties of every file of weights; images that are already there are not sampled again.

    Writes ``uncertainty.json`` (all results so far, for each image), ``uncertainty.csv`` and ``risk_coverage.png`` (the
    results asked for; the mean risk of the images). With a single file of weights the picture also shows the best
    possible risk and that without information.

    Args:
        bundle: the bundle; its sampler and windows are used.
        dataset_dir: dataset to score.
        weights: name and file of each network.
        output_dir: folder to write to.
        steps: steps of the sampler.
        num_generations: generations, whose disagreement is the uncertainty.
        num_images: take only the first images.

    Returns:
        For each file of weights, one row for each uncertainty: means over images, with 95 % bootstrap intervals
        (``_low``, ``_high``), of ``auroc`` (over the ``auroc_images`` where it is defined), ``area`` and ``excess``;
        and the mean ``error_rate``.

    Raises:
        CheckpointError: weights are missing, damaged, or of another network.
        DatasetError: the dataset or earlier results cannot be used.
    """
    output_dir, setting, threshold = Path(output_dir), Setting(steps, num_generations), bundle.value("threshold")

    def score(statistics: np.ndarray, truth: np.ndarray, _: Setting) -> dict[str, Any]:
        return error_finding(statistics, truth, threshold)

    study = Study(output_dir / "uncertainty.json", bundle, dataset_dir, weights, num_images)
    study.run([setting], _statistics, score)
    rows, curves = [], {}
    coverage = np.arange(1, NUM_POINTS + 1) / NUM_POINTS
    for arm in study.arms:
        images = study.results(arm, setting)
        names = {"weights": arm.name, "prediction_type": arm.bundle.value("prediction_type"), **setting._asdict()}
        for measure in MEASURES:
            rows.append({**names, "uncertainty": measure, **_summary(images, measure)})
            label = measure.replace("_", " ") if len(study.arms) == 1 else f"{arm.name}, {measure.replace('_', ' ')}"
            curves[label] = (coverage, np.mean([image[measure]["risk"] for image in images], axis=0))
    write_csv(output_dir / "uncertainty.csv", rows)
    reference: dict[str, Any] = {}
    if len(study.arms) == 1:
        error_rates = [image["error_rate"] for image in images]
        oracle = np.mean([oracle_risk(rate, coverage) for rate in error_rates], axis=0)
        reference = {"oracle": (coverage, oracle), "error_rate": float(np.mean(error_rates))}
    draw_risk_coverage(output_dir / "risk_coverage.png", curves, **reference)
    return rows


def _statistics(inferer: SegDiffInferer, image: torch.Tensor, network: nn.Module) -> torch.Tensor:
    found = inferer.statistics(image, network)
    return torch.stack([found.mean, *(getattr(found, name) for name in MEASURES)])


def _summary(images: Sequence[Mapping[str, Any]], measure: str) -> dict[str, Any]:
    summary: dict[str, Any] = {
        "images": len(images),
        "error_rate": sum(image["error_rate"] for image in images) / len(images),
    }
    for score in SCORES:
        values = [image[measure][score] for image in images if image[measure][score] is not None]
        low, high = bootstrap_interval(values) or (None, None)
        summary |= {score: sum(values) / len(values) if values else None, f"{score}_low": low, f"{score}_high": high}
        if score == "auroc":
            summary["auroc_images"] = len(values)
    return summary


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [["weights", "predicts", "uncertainty", "wrong", "AUROC", "AURC", "excess"]]
    for row in rows:
        cells = [row["weights"], row["prediction_type"], row["uncertainty"], f"{row['error_rate']:.4f}"]
        for score in SCORES:
            interval = format_interval(row[f"{score}_low"], row[f"{score}_high"])
            cells.append("-" if row[score] is None else f"{row[score]:.4f} ({interval})")
        lines.append(cells)
    return format_table(lines, left=3)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command with the given words, default: those of the command line."""
    parser = study_parser("benchmarks.uncertainty", DESCRIPTION, EXAMPLE)
    parser.add_argument("--steps", type=positive, default=3, help="steps of the sampler (default 3)")
    parser.add_argument("--generations", type=positive, default=9, help="generations, at least 2 (default 9)")
    options = parser.parse_args(arguments)
    weights = weights_of(parser, options)
    if options.generations < 2:
        parser.error("--generations: one generation has no disagreement, expected at least 2.")
    with readable_errors(parser):
        bundle = Bundle(overrides_of(options))
        check_steps(parser, bundle, [options.steps])
        asked = (options.steps, options.generations, options.num_images)
        rows = uncertainty(bundle, options.dataset_dir, weights, options.output_dir, *asked)
    print(_table(rows))
    print(
        f"Images: {rows[0]['images']}. {options.steps} step(s), {options.generations} generations. "
        f"wrong: share of wrong pixels. Also in {options.output_dir}."
    )


if __name__ == "__main__":
    main()
