# SPDX-License-Identifier: Apache-2.0
"""Quality against the number of steps and generations, for one or more files of weights.

Run ``python -m benchmarks.few_steps --help``.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from monai_segdiff import SegDiffUNet, bootstrap_interval
from monai_segdiff.exceptions import CheckpointError

from .bundle import Bundle, Item
from .command import command_parser, overrides_of, positive, readable_errors
from .few_steps_plot import draw_few_steps
from .generation_scores import GenerationScores
from .result_store import ResultStore
from .table import format_table, write_csv

__all__ = ["few_steps"]

KEYS = ("sha256", "prediction_type", "steps", "generations")
# What else of the configs decides about the result.
PROTOCOL = ("image_scale", "image_mean", "image_std", "window_size", "window_overlap", "window_blending", "threshold")
EXAMPLE = "--dataset_dir VALIDATION --weights published=runs/a/model.pt ours=runs/b/model.pt --settings 1x1 3x1 3x4"


class Setting(NamedTuple):
    """Steps of the sampler and number of generations."""

    steps: int
    generations: int


class _Arm(NamedTuple):
    """One file of weights, and the bundle as it was trained."""

    name: str
    sha256: str
    bundle: Bundle
    network: SegDiffUNet

    def key(self, setting: Setting) -> dict[str, Any]:
        return {"sha256": self.sha256, "prediction_type": self.bundle.value("prediction_type"), **setting._asdict()}


def few_steps(
    bundle: Bundle,
    dataset_dir: str | Path,
    weights: dict[str, str],
    settings: Sequence[Setting],
    output_dir: str | Path,
    num_images: int | None = None,
) -> list[dict[str, Any]]:
    """Score every file of weights under every setting; results that are already there are not computed again.

    Each image is sampled once for each number of steps: the generations of a setting are the first ones of the largest
    number wanted, which are the same as if they had been sampled alone. Writes ``few_steps.json`` (all results so far,
    per image as well), ``few_steps.csv`` and ``few_steps.png`` (the results asked for).

    Args:
        bundle: the bundle; its sampler and windows are used.
        dataset_dir: dataset to score; training images that a ``split.json`` beside any of the weights names are left
            out.
        weights: name and file of each network. Where the ``model.json`` beside one says what it predicts, that holds.
        settings: steps and generations.
        output_dir: folder to write to.
        num_images: take only the first images.

    Returns:
        One row for each file of weights and setting, in that order.

    Raises:
        CheckpointError: weights are missing, damaged, or of another network.
        DatasetError: the dataset or earlier results cannot be used.
    """
    arms = [_arm(bundle, name, path) for name, path in weights.items()]
    items = bundle.items(dataset_dir, list(weights.values()), num_images)
    output_dir = Path(output_dir)
    store = ResultStore(output_dir / "few_steps.json", _protocol(bundle, items), KEYS)
    groups = [group for arm in arms for group in _missing(arm, settings, store)]
    total = len(items) * sum(steps * max(generations) for _, steps, generations in groups)
    with tqdm(total=total, unit="pass", desc="sampling") as progress:
        for arm, steps, generations in groups:
            scores = _sample(arm, steps, generations, items, progress)
            for setting, found in scores.items():
                store.add({"weights": arm.name, **arm.key(setting), **found.summary()})
    rows = [{**_row(store, arm, setting), "weights": arm.name} for arm in arms for setting in settings]
    write_csv(output_dir / "few_steps.csv", _flat(rows))
    draw_few_steps(output_dir / "few_steps.png", rows)
    return rows


def _arm(bundle: Bundle, name: str, path: str) -> _Arm:
    if not Path(path).is_file():
        raise CheckpointError(f"Checkpoint {path} does not exist.")
    bundle = bundle.for_weights(path)
    return _Arm(name, hashlib.sha256(Path(path).read_bytes()).hexdigest(), bundle, bundle.network(path))


def _protocol(bundle: Bundle, items: Sequence[Item]) -> dict[str, Any]:
    """Everything but the weights, steps and generations on which a result depends."""
    digests = {item.name: hashlib.sha256(item.image.numpy().tobytes()).hexdigest()[:16] for item in items}
    named = {name: bundle.value(name) for name in PROTOCOL}
    configs = {name: bundle.config(name) for name in ("scheduler", "inferer")}
    return {"images": digests, **named, **configs, "seed": bundle.value("seed"), "device": bundle.device.type}


def _missing(arm: _Arm, settings: Sequence[Setting], store: ResultStore) -> Iterator[tuple[_Arm, int, list[int]]]:
    """Give, for each number of steps, the numbers of generations that are still to be scored."""
    for steps in sorted({setting.steps for setting in settings}):
        wanted = sorted({setting.generations for setting in settings if setting.steps == steps})
        generations = [number for number in wanted if store.find(**arm.key(Setting(steps, number))) is None]
        if generations:
            yield arm, steps, generations


def _sample(
    arm: _Arm, steps: int, generations: Sequence[int], items: Sequence[Item], progress: tqdm
) -> dict[Setting, GenerationScores]:
    device = arm.bundle.device
    inferer = arm.bundle.inferer(num_inference_steps=steps, num_generations=max(generations))
    threshold = arm.bundle.value("threshold")
    scores = {Setting(steps, number): GenerationScores(threshold) for number in generations}
    for item in items:
        progress.set_postfix_str(f"{arm.name}, {steps} x {max(generations)}")
        sampled = inferer.generations(item.image[None].to(device), arm.network)[:, 0, 0].cpu().numpy()
        for setting, found in scores.items():
            found.add(item.name, sampled[: setting.generations], item.label[0].numpy())
        progress.update(steps * max(generations))
    return scores


def _row(store: ResultStore, arm: _Arm, setting: Setting) -> dict[str, Any]:
    row = store.find(**arm.key(setting))
    assert row is not None, "all that was missing has been computed"
    return row


def _flat(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One level of numbers for a spreadsheet, with the difference from the first row over the same images."""
    first = [image["dice"] for image in rows[0]["images"]]
    flat = []
    for row in rows:
        line = {name: row[name] for name in ("weights", "prediction_type", "steps", "generations")}
        for score in ("dice", "iou", "boundary_f"):
            low, high = row[score]["interval"] or (None, None)
            line |= {score: row[score]["value"], f"{score}_low": low, f"{score}_high": high}
        change = [image["dice"] - dice for image, dice in zip(row["images"], first, strict=True)]
        low, high = bootstrap_interval(change) or (None, None)
        line |= {"dice_change": sum(change) / len(change), "dice_change_low": low, "dice_change_high": high}
        names = ("expected_calibration_error", "paper_calibration_score", "empty_bins", "brier_score")
        flat.append({**line, **{name: row[name] for name in (*names, "spread", "pairwise_dice")}})
    return flat


def _table(rows: Sequence[dict[str, Any]]) -> str:
    lines = [
        ["weights", "predicts", "steps x gen.", "Dice", "95 % interval", "change, paired", "IoU", "boundary F"]
        + ["ECE", "paper cal.", "Brier", "spread", "pair Dice"]
    ]
    for line in _flat(rows):
        cells = [line["weights"], line["prediction_type"], f"{line['steps']} x {line['generations']}"]
        cells += [f"{line['dice']:.4f}", _interval(line["dice_low"], line["dice_high"])]
        cells += [f"{line['dice_change']:+.4f} ({_interval(line['dice_change_low'], line['dice_change_high'], '+')})"]
        names = ("iou", "boundary_f", "expected_calibration_error", "paper_calibration_score", "brier_score")
        cells += ["-" if line[name] is None else f"{line[name]:.4f}" for name in (*names, "spread", "pairwise_dice")]
        lines.append(cells)
    return format_table(lines, left=2)


def _interval(low: float | None, high: float | None, sign: str = "") -> str:
    return "-" if low is None or high is None else f"{low:{sign}.4f}..{high:{sign}.4f}"


def _setting(text: str) -> Setting:
    steps, separator, generations = text.partition("x")
    if not (separator and steps.isdecimal() and generations.isdecimal() and int(steps) and int(generations)):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form STEPSxGENERATIONS, such as 3x4.")
    return Setting(int(steps), int(generations))


def _named_weights(text: str) -> tuple[str, str]:
    name, separator, path = text.partition("=")
    if not (name and separator and path):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=PATH, such as ours=runs/monuseg/model.pt.")
    return name, path


def _parser() -> argparse.ArgumentParser:
    description = "Score files of weights under several numbers of steps and generations. Run it again to continue."
    parser = command_parser("benchmarks.few_steps", description, EXAMPLE)
    parser.add_argument("--dataset_dir", required=True, help="dataset to score")
    parser.add_argument("--weights", required=True, nargs="+", type=_named_weights, metavar="NAME=PATH", help="weights")
    parser.add_argument(
        "--settings",
        nargs="+",
        type=_setting,
        default=[_setting(text) for text in ("1x1", "2x1", "3x1", "5x1", "10x1", "3x4", "10x4")],
        metavar="STEPSxGENERATIONS",
        help="default: 1x1 2x1 3x1 5x1 10x1 3x4 10x4",
    )
    parser.add_argument("--num_images", type=positive, help="only the first images")
    parser.add_argument("--output_dir", default="benchmark_results", help="folder to write to, and to continue")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command with the given words, default: those of the command line."""
    parser = _parser()
    options = parser.parse_args(arguments)
    weights = dict(options.weights)
    if len(weights) < len(options.weights):
        parser.error("--weights: the same name is given twice.")
    with readable_errors(parser):
        bundle = Bundle(overrides_of(options))
        rows = few_steps(bundle, options.dataset_dir, weights, options.settings, options.output_dir, options.num_images)
    print(_table(rows))
    images = len(rows[0]["images"])
    print(
        f"Images: {images}. Change: of Dice against the first row, over the same images. Also in {options.output_dir}."
    )


if __name__ == "__main__":
    main()
