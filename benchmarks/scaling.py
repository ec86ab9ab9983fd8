# SPDX-License-Identifier: Apache-2.0
"""Cost of inference against the image's area, the generations and the steps, one at a time around the defaults.

Run ``python -m benchmarks.scaling --help``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from .bundle import Bundle
from .command import command_parser, overrides_of, positive, readable_errors
from .cost import bundle_macs
from .inference_table import MIB, format_seconds
from .measurement import Job, Measurement, measure_isolated
from .scaling_plot import draw_scaling
from .table import format_table, write_json

__all__ = ["scaling"]

DEFAULT_SIZE = 512
EXAMPLE = "--sizes 256 512 1024 --generations 1 4 16 --steps 1 10"


class Point(NamedTuple):
    """One setting: the pixels along an edge of the image, generations, and steps of the sampler."""

    size: int
    generations: int
    steps: int


def scaling(
    bundle: Bundle,
    sizes: Sequence[int],
    generations: Sequence[int],
    steps: Sequence[int],
    base_size: int = DEFAULT_SIZE,
    measure: Callable[[Job], Measurement] = measure_isolated,
) -> list[dict[str, Any]]:
    """Measure images of random numbers with random weights: the cost depends on neither.

    Args:
        bundle: the bundle; what is not changed has its defaults.
        sizes: edges of square images.
        generations: numbers of generations, for images of ``base_size``.
        steps: numbers of steps, for images of ``base_size``.
        base_size: edge of the image whose generations and steps are changed.
        measure: how to measure; by default each setting in its own process.

    Returns:
        One row for each value of each ``factor`` (``"size"``, ``"generations"``, ``"steps"``).
    """
    base = Point(base_size, int(bundle.value("num_generations")), int(bundle.value("num_inference_steps")))
    wanted = {"size": sizes, "generations": generations, "steps": steps}
    points = [(factor, base._replace(**{factor: value})) for factor, values in wanted.items() for value in values]
    macs = bundle_macs(bundle)
    found: dict[Point, Measurement] = {}
    for point in tqdm(list(dict.fromkeys(point for _, point in points)), unit="setting"):
        found[point] = measure(_job(bundle, point))
    return [
        {
            "factor": factor,
            **point._asdict(),
            "encoder_passes": found[point].passes.encoder,
            "denoiser_passes": found[point].passes.denoiser,
            "macs": macs.of(found[point].passes),
            "seconds": found[point].seconds,
            "peak_memory": found[point].peak_memory,
        }
        for factor, point in points
    ]


def _job(bundle: Bundle, point: Point) -> Job:
    image = np.random.default_rng(0).standard_normal((3, point.size, point.size), dtype=np.float32)
    arguments = {"num_generations": point.generations, "num_inference_steps": point.steps}
    return Job(images=(image,), overrides=bundle.overrides, arguments=arguments)


def _table(rows: Sequence[dict[str, Any]]) -> str:
    lines = [["changed", "image", "generations", "steps", "encoder", "denoiser", "TMAC", "time", "peak memory"]]
    for row in rows:
        cells = [row["factor"], f"{row['size']}^2", str(row["generations"]), str(row["steps"])]
        cells += [f"{row['encoder_passes']:g}", f"{row['denoiser_passes']:g}", f"{row['macs'] / 1e12:.3f}"]
        lines.append([*cells, format_seconds(row["seconds"]), f"{row['peak_memory'] / MIB:.0f} MiB"])
    return format_table(lines)


def _parser() -> argparse.ArgumentParser:
    description = "Measure time, passes and memory against image area, generations and steps, around the defaults."
    parser = command_parser("benchmarks.scaling", description, EXAMPLE)
    for name, values, text in (
        ("--sizes", [256, 512, 768, 1024], "edges of square images, in pixels as the network sees them"),
        ("--generations", [1, 2, 4, 8, 16], "numbers of generations"),
        ("--steps", [1, 2, 5, 10], "numbers of steps"),
    ):
        text = f"{text}; default: {' '.join(map(str, values))}"
        parser.add_argument(name, nargs="+", type=positive, default=values, metavar="N", help=text)
    parser.add_argument("--base_size", type=positive, default=DEFAULT_SIZE, help="edge for the other two; default: 512")
    parser.add_argument("--output_dir", default="benchmark_results", help="folder to write to")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command with the given words, default: those of the command line."""
    parser = _parser()
    options = parser.parse_args(arguments)
    with readable_errors(parser):
        bundle = Bundle(overrides_of(options))
        changes = (options.sizes, options.generations, options.steps)
        rows = scaling(bundle, *changes, options.base_size, measure_isolated)
    path = Path(options.output_dir) / "scaling.json"
    write_json(path, {"device": bundle.device.type, "rows": rows})
    draw_scaling(path.with_suffix(".png"), rows)
    print(_table(rows))
    print(f"Memory: beyond weights and image. Also in {options.output_dir}.")


if __name__ == "__main__":
    main()
