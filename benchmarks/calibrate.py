# SPDX-License-Identifier: Apache-2.0
"""Fit the temperature that calibrates a network's probabilities, and what it gains on images it was not fitted to.

Run ``python -m benchmarks.calibrate --help``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from monai_segdiff import (
    TemperatureScaling,
    calibration_counts,
    calibration_scores,
    draw_reliability_diagram,
    fit_temperature,
    negative_log_likelihood,
)
from monai_segdiff.exceptions import DatasetError
from monai_segdiff.metrics.temperature_fit import PROBABILITY_CLIP, TEMPERATURE_BOUNDS

from .bundle import Bundle, Item
from .command import command_parser, overrides_of, positive, readable_errors
from .study_options import check_steps
from .table import format_table, write_csv, write_json

__all__ = ["calibrate", "compare_temperatures"]

SCORES = {
    "expected_calibration_error": "ECE",
    "paper_calibration_score": "paper's score",
    "brier_score": "Brier",
    "negative_log_likelihood": "NLL (nats)",
}
# What of the bundle the temperature depends on, besides the weights, the images, the steps and the generations.
VALUES = (
    *("prediction_type", "image_scale", "image_mean", "image_std", "num_train_timesteps", "window_size"),
    *("window_overlap", "window_blending", "window_mode", "stop_early", "seed", "amp"),
)
NAMES = {"none": "without", "all_images": "fitted on all images", "leave_one_out": "leave one image out"}
DESCRIPTION = """\
Fit a temperature to a network's probabilities on validation images, and score it three ways: without; fitted on all
images and scored on the same ones, which flatters; and fitted, for each image, on the other ones (leave one image out),
which is what to expect on new images. The mask at the threshold 0.5 stays as it is."""
EXAMPLE = "--dataset_dir VALIDATION --weights runs/monuseg/model.pt --steps 3 --generations 4"


def compare_temperatures(probabilities: Sequence[np.ndarray], truths: Sequence[np.ndarray]) -> dict[str, Any]:
    """Fit temperatures to some images and score them.

    Args:
        probabilities: float32 ``[H, W]`` of each image, at least two.
        truths: boolean ``[H, W]`` of each image.

    Returns:
        ``temperature``, fitted on all images, and for ``none``, ``all_images`` and ``leave_one_out`` the
        ``temperatures``, one for each image, the ``counts`` of :func:`monai_segdiff.calibration_counts` of all pixels,
        and the scores of all pixels.
    """
    together = fit_temperature(probabilities, truths)
    indices = range(len(probabilities))
    left_out = [fit_temperature(*_without(index, probabilities, truths)) for index in indices]
    temperatures = {
        "none": [1.0 for _ in indices],
        "all_images": [together for _ in indices],
        "leave_one_out": left_out,
    }
    scored = {name: _score(probabilities, truths, used) for name, used in temperatures.items()}
    return {"temperature": together, **scored}


def calibrate(
    bundle: Bundle,
    dataset_dir: str | Path,
    weights: str | Path,
    output_dir: str | Path,
    steps: int | None = None,
    generations: int | None = None,
    num_images: int | None = None,
) -> dict[str, Any]:
    """Sample the images of a dataset once, with the bundle's inferer, and fit the temperature.

    Writes ``temperature.json`` (the temperature and what it holds for), ``calibration.json``, ``calibration.csv`` (the
    scores) and ``reliability.png``.

    Args:
        bundle: the bundle.
        dataset_dir: dataset with labels; training images that a ``split.json`` beside the weights names are left out.
        weights: weights of the network.
        output_dir: folder to write to.
        steps: steps of the sampler; None: as the bundle does.
        generations: number of generations; None: as the bundle does.
        num_images: take only the first images.

    Returns:
        What ``calibration.json`` holds: ``protocol``, ``temperature``, and ``rows``, one for each way to choose the
        temperature.

    Raises:
        CheckpointError: the weights are missing, damaged, or of another network.
        DatasetError: the dataset cannot be used, or has a single image.
    """
    output_dir = Path(output_dir)
    given = {"num_inference_steps": steps, "num_generations": generations}
    bundle = bundle.for_weights(weights).with_overrides({name: value for name, value in given.items() if value})
    network = bundle.network(weights)
    items = bundle.items(dataset_dir, [weights], num_images)
    if len(items) < 2:
        raise DatasetError(f"{dataset_dir}: found one image, expected two or more, so that one can be left out.")
    inferer, probabilities = bundle.inferer(), []
    for item in tqdm(items, unit="image", desc="sampling"):
        probabilities.append(inferer(item.image[None].to(bundle.device), network)[0, 0].cpu().numpy())
    found = compare_temperatures(probabilities, [item.label[0].numpy() for item in items])
    temperature, protocol = found.pop("temperature"), _protocol(bundle, weights, items)
    rows = []
    for name, scored in found.items():
        used = scored["temperatures"]
        limits = {"temperature_lowest": min(used), "temperature_highest": max(used)}
        rows.append({"temperature": name, **limits, **{score: scored[score] for score in (*SCORES, "empty_bins")}})
    report = {"protocol": protocol, "temperature": temperature, "rows": rows}
    left_out = dict(zip((item.name for item in items), found["leave_one_out"]["temperatures"], strict=True))
    counts = {name: scored["counts"].tolist() for name, scored in found.items()}
    write_json(output_dir / "temperature.json", {"temperature": temperature, "protocol": protocol})
    write_json(output_dir / "calibration.json", {**report, "temperature_without_image": left_out, "counts": counts})
    write_csv(output_dir / "calibration.csv", rows)
    # The line fitted on all images would lie on that of leave-one-out.
    drawn = {f"temperature: {NAMES[name]}": found[name]["counts"] for name in ("none", "leave_one_out")}
    draw_reliability_diagram(output_dir / "reliability.png", drawn)
    return report


def _without(index: int, *lists: Sequence[np.ndarray]) -> list[list[np.ndarray]]:
    return [[*one[:index], *one[index + 1 :]] for one in lists]


def _score(
    probabilities: Sequence[np.ndarray], truths: Sequence[np.ndarray], temperatures: Sequence[float]
) -> dict[str, Any]:
    """Score the pixels of all images, each scaled with its temperature."""
    counts, squared, likelihood = np.zeros((10, 3)), 0.0, 0.0
    for probability, truth, temperature in zip(probabilities, truths, temperatures, strict=True):
        scaled = TemperatureScaling(temperature)(torch.from_numpy(probability)).numpy()
        counts = counts + calibration_counts(scaled, truth)
        squared += float(np.square(scaled.astype(np.float64) - truth).sum())
        likelihood += negative_log_likelihood(probability, truth, temperature) * truth.size
    pixels = sum(truth.size for truth in truths)
    means = {"brier_score": squared / pixels, "negative_log_likelihood": likelihood / pixels}
    return {"temperatures": list(temperatures), "counts": counts, **calibration_scores(counts), **means}


def _protocol(bundle: Bundle, weights: str | Path, items: Sequence[Item]) -> dict[str, Any]:
    names = ("num_inference_steps", "num_generations", *VALUES)
    return {
        "weights": Path(weights).name,
        "sha256": hashlib.sha256(Path(weights).read_bytes()).hexdigest(),
        "images": [item.name for item in items],
        "pixels": sum(item.label.numel() for item in items),
        **{name: bundle.value(name) for name in names},
        "scheduler": bundle.config("scheduler"),
        "device": bundle.device.type,
        "probability_clip": PROBABILITY_CLIP,
        "bounds": list(TEMPERATURE_BOUNDS),
    }


def _table(report: dict[str, Any]) -> str:
    lines = [["temperature", "T", *SCORES.values()]]
    for row in report["rows"]:
        low, high = (f"{row[f'temperature_{end}']:.3f}" for end in ("lowest", "highest"))
        scores = [f"{row[score]:.5f}" for score in SCORES]
        lines.append([NAMES[row["temperature"]], low if low == high else f"{low}..{high}", *scores])
    return format_table(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command with the given words, default: those of the command line."""
    parser = command_parser("benchmarks.calibrate", DESCRIPTION, EXAMPLE)
    parser.add_argument("--dataset_dir", required=True, help="dataset with labels that the network was not trained on")
    parser.add_argument("--weights", required=True, metavar="PATH", help="weights of the network")
    parser.add_argument("--steps", type=positive, help="steps of the sampler; default: as the bundle does")
    parser.add_argument("--generations", type=positive, help="number of generations; default: as the bundle does")
    parser.add_argument("--num_images", type=positive, help="only the first images, at least 2")
    parser.add_argument("--output_dir", default="benchmark_results", help="folder to write to")
    options = parser.parse_args(arguments)
    with readable_errors(parser):
        bundle = Bundle(overrides_of(options))
        check_steps(parser, bundle, [options.steps or bundle.value("num_inference_steps")])
        report = calibrate(
            bundle,
            options.dataset_dir,
            options.weights,
            options.output_dir,
            options.steps,
            options.generations,
            options.num_images,
        )
    print(_table(report))
    protocol, temperature = report["protocol"], report["temperature"]
    images = len(protocol["images"])
    print(f"Images: {images}. Scores: of all pixels, lower is better. Also in {options.output_dir}.")
    without, _, left_out = report["rows"]
    if worse := [name for score, name in SCORES.items() if left_out[score] > without[score]]:
        print(f"On images that it was not fitted to, the temperature makes worse: {', '.join(worse)}.")
    if temperature in TEMPERATURE_BOUNDS:
        print(f"The best temperature lies at the end of the range searched, {TEMPERATURE_BOUNDS}: do not rely on it.")
    words = " ".join(f"--{name} {protocol[name]}" for name in ("num_inference_steps", "num_generations"))
    print(f"To use it, add to the bundle's command: --temperature {temperature:.4g} {words}")


if __name__ == "__main__":
    main()
