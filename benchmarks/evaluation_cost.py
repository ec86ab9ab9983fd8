# SPDX-License-Identifier: Apache-2.0
"""Time that the evaluation of one image takes beyond sampling.

Run ``python -m benchmarks.evaluation_cost --help``.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from monai_segdiff import EvaluationReport, UncertaintyInferer

from .bundle import Bundle
from .command import command_parser, overrides_of, positive, readable_errors
from .table import format_table, write_json

__all__ = ["evaluation_cost"]

EXAMPLE = "--dataset_dir VALIDATION --weights bundles/monuseg/models/model.pt"


def evaluation_cost(bundle: Bundle, dataset_dir: str | Path, weights: str | Path, repeats: int = 3) -> dict[str, Any]:
    """Time each post-processing transform and each scorer of the bundle's evaluation, everything switched on.

    The first image of the dataset is taken at its own size and sampled once, with 2 generations of 2 steps.

    Args:
        bundle: the bundle.
        dataset_dir: dataset with instances.
        weights: file of weights.
        repeats: how often to time each part; the median counts.

    Returns:
        ``{"image", "size", "instances", "parts": {name: seconds}, "total_seconds"}``.

    Raises:
        DatasetError: the dataset is unusable or has no instances.
        CheckpointError: the weights are.
    """
    # Built before the scale is changed: the weights belong to another one, which does not matter to the time.
    network = bundle.network(weights)
    with tempfile.TemporaryDirectory() as folder:
        everything = {"instances": True, "uncertainty": True, "image_scale": 1.0, "score_scale": 1.0}
        paths = {"dataset_dir": str(dataset_dir), "ckpt": str(weights), "output_dir": folder}
        bundle = bundle.with_overrides({**everything, **paths})
        item: dict[str, Any] = bundle.value("validate#dataset")[0]
        inferer = UncertaintyInferer(bundle.inferer(num_inference_steps=2, num_generations=2))
        image = item["image"][None].to(bundle.device)
        item["pred"] = inferer(image, network)[0].cpu()
        parts: dict[str, float] = {}
        for transform in bundle.value("validate#postprocessing").transforms:
            seconds, after = _timed(transform, item, repeats)
            parts[type(transform).__name__] = seconds
            item = after
        report = next(h for h in bundle.value("validate#handlers") if isinstance(h, EvaluationReport))
        for scorer in report.scorers:
            seconds, measured = _timed(scorer.measure, item, repeats)
            parts[type(scorer).__name__] = seconds
            parts[f"{type(scorer).__name__}.draw"], _ = _timed(
                lambda counts, draw=scorer.draw: draw(Path(folder), counts), measured.counts[None], repeats
            )
    return {
        "image": Path(item["image"].meta["filename_or_obj"]).stem,
        "size": list(item["label"].shape[1:]),
        "instances": len(np.unique(item["instances"])) - 1,
        "parts": parts,
        "total_seconds": sum(parts.values()),
    }


def _timed(function: Any, argument: Any, repeats: int) -> tuple[float, Any]:
    seconds, result = [], None
    for _ in range(repeats):
        start = time.perf_counter()
        result = function(argument)
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds)), result


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command with the given words, default: those of the command line."""
    description = "Time what the evaluation of one image costs beyond sampling, at the image's own size."
    parser = command_parser("benchmarks.evaluation_cost", description, EXAMPLE)
    parser.add_argument("--dataset_dir", required=True, help="dataset with instances or Aperio annotations")
    parser.add_argument("--weights", required=True, help="file of weights")
    parser.add_argument("--repeats", type=positive, default=3, help="how often to time each part; the median counts")
    parser.add_argument("--output_dir", default="benchmark_results", help="folder to write to")
    options = parser.parse_args(arguments)
    with readable_errors(parser):
        bundle = Bundle(overrides_of(options))
        found = evaluation_cost(bundle, options.dataset_dir, options.weights, options.repeats)
    write_json(Path(options.output_dir) / "evaluation_cost.json", found)
    lines = [["part", "seconds"], *([name, f"{seconds:.3f}"] for name, seconds in found["parts"].items())]
    print(format_table([*lines, ["total", f"{found['total_seconds']:.3f}"]]))
    print(f"{found['image']}, {found['size']} pixels, {found['instances']} instances.")


if __name__ == "__main__":
    main()
