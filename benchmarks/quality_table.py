# SPDX-License-Identifier: Apache-2.0
"""The quality of several rows over the same images, as numbers and as a table."""

from __future__ import annotations

import hashlib
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from monai_segdiff import bootstrap_interval, paired_bootstrap, segmentation_scores

from .image_scores import pooled_scores
from .table import format_interval

__all__ = ["PUBLISHED", "format_quality", "summarize_quality"]

# Dice (F1) and IoU on other images, the 14 test images.
PUBLISHED = (
    {"name": "U-Net, published", "dice": 0.794, "iou": 0.660},
    {"name": "MedT, published", "dice": 0.796, "iou": 0.662},
    {"name": "SegDiff, published", "dice": 0.816, "iou": 0.690},
)
POOLED = ("dice", "iou")
MEANS = ("aji", "pq", "dq", "sq", "weighted_coverage", "auroc")
SCORES = (
    *("Dice", "Dice less {baseline}", "IoU", "Dice, pooled", "IoU, pooled"),
    *("AJI", "PQ", "ECE", "Brier", "AUROC", "seconds"),
)
FACTS = {
    "bundle": "bundle",
    "parameters": "parameters",
    "num_inference_steps": "steps",
    "num_generations": "generations",
    "flips": "flips",
    "image_scale": "image scale",
    "seed": "seed",
    "weights_sha256": "weights, SHA-256",
    "split_sha256": "split, SHA-256",
}


def summarize_quality(
    images: Sequence[Mapping[str, Any]], baseline: Sequence[Mapping[str, Any]] | None
) -> dict[str, Any]:
    """Summarise the images of a row.

    Args:
        images: for each image its ``name``, what :func:`~benchmarks.quality_scores.quality_scores` returns, and
            ``seconds``.
        baseline: the same images by the baseline, in the same order; None for the baseline itself.

    Returns:
        What :func:`~benchmarks.image_scores.pooled_scores` returns. Alike, as ``{"value", "interval"}`` with 95 %
        bootstrap intervals over images: the means of ``aji``, ``pq``, ``dq``, ``sq``, ``weighted_coverage`` and
        ``auroc`` over the images that define them; ``pooled_dice`` and ``pooled_iou`` of the pixels of all images; and
        ``dice_less_baseline``, paired, with its ``share_not_above``, or None. And the median of ``seconds``.

    Raises:
        ValueError: the baseline has other images.
    """
    summary = pooled_scores(images)
    for score in MEANS:
        values = [image[score] for image in images if image[score] is not None]
        mean = sum(values) / len(values) if values else None
        summary[score] = {"value": mean, "interval": bootstrap_interval(values)}
    counts = [image["overlap"] for image in images]
    pooled = segmentation_scores(*(int(count) for count in np.sum(counts, axis=0)))
    for score in POOLED:
        summary[f"pooled_{score}"] = {"value": pooled[score], "interval": bootstrap_interval(counts, score)}
    summary["seconds"] = statistics.median(image["seconds"] for image in images)
    summary["dice_less_baseline"] = None
    if baseline is not None:
        if [image["name"] for image in images] != [image["name"] for image in baseline]:
            raise ValueError("the baseline has other images than the row, expected the same in the same order.")
        first, second = ([image["dice"] for image in of_row] for of_row in (images, baseline))
        difference, interval, share = paired_bootstrap(first, second)
        summary["dice_less_baseline"] = {"value": difference, "interval": interval, "share_not_above": share}
    return summary


def format_quality(report: Mapping[str, Any]) -> str:
    """Return the report of :func:`~benchmarks.quality.quality` as Markdown.

    Args:
        report: with ``protocol``, ``baseline``, ``rows`` (names, facts and summaries) and ``published``.
    """
    scores = [["row", *(title.format(baseline=report["baseline"]) for title in SCORES)]]
    for row in report["rows"]:
        cells = [_cell(row["dice"]), _cell(row["dice_less_baseline"], "+"), _cell(row["iou"])]
        cells += [_number(row[name]["value"]) for name in ("pooled_dice", "pooled_iou")]
        cells += [_cell(row[name]) for name in ("aji", "pq")]
        cells += [_number(row[name]) for name in ("expected_calibration_error", "brier_score")]
        scores.append([row["name"], *cells, _cell(row["auroc"]), f"{row['seconds']:.2f}"])
    for row in report["published"]:
        known = {"Dice": f"about {row['dice']:.3f}", "IoU": f"about {row['iou']:.3f}"}
        scores.append([f"{row['name']} *", *(known.get(title, "-") for title in SCORES)])
    facts = [["row", *FACTS.values()]]
    for row in report["rows"]:
        facts.append([row["name"], *(_fact(name, row[name]) for name in FACTS)])
    return "\n\n".join([_header(report), _markdown(scores), _footer(report), _markdown(facts)]) + "\n"


def _header(report: Mapping[str, Any]) -> str:
    protocol, rows = report["protocol"], report["rows"]
    size, images, left_out = protocol["size"], len(protocol["images"]), protocol["training_images_left_out"]
    splits = sorted({row["split_sha256"] for row in rows if row["split_sha256"]})
    unknown = [row["name"] for row in rows if not row["split_sha256"]]
    kinds = {name: _kinds(protocol["images"], name) for name in ("label", "instances")}
    parts = [
        f"{images} images; {left_out} others trained one of the networks and were left out (split files, SHA-256: "
        f"{', '.join(splits) or 'none'}).",
        *([f"**What trained {', '.join(unknown)} is not known.**"] if unknown else []),
        f"Masks: {kinds['label']}. Objects: {kinds['instances']}.",
        f"All rows are scored at {size}x{size}, the foreground alone: masks resized by nearest neighbour, "
        "probabilities of networks that work at another size by area or bilinear interpolation.",
        f"Hardware: {protocol['name']}, {protocol['device']}, {protocol['threads']} thread(s), "
        f"PyTorch {protocol['torch']}.",
    ]
    return " ".join(parts)


def _kinds(images: Sequence[Mapping[str, Any]], key: str) -> str:
    """Say from which files something was read, and the hash of their hashes."""
    found = Counter(Path(image[key]).suffix.lower() for image in images)
    counts = [
        f"{count} {'Aperio XML, outlines filled' if suffix == '.xml' else f'pictures ({suffix[1:]})'}"
        for suffix, count in sorted(found.items())
    ]
    digest = hashlib.sha256("".join(image[f"{key}_sha256"] for image in images).encode()).hexdigest()
    return f"{', '.join(counts)}, SHA-256 of their SHA-256 {digest}"


def _footer(report: Mapping[str, Any]) -> str:
    return (
        "Means of images with 95 % bootstrap intervals over images. Pooled, ECE (10 bins) and Brier: of the pixels of "
        f"all images. Differences from {report['baseline']} are paired, image by image. AJI and PQ: objects by "
        "watershed. AUROC: the entropy of the probability as a detector of wrong pixels. Seconds: of the inferer for "
        "one image, median.\n\n"
        "\\* As published, of other images (the 14 test images of MoNuSeg) and other renderings of the masks; what was "
        "not published is left open."
    )


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    rows = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in (rows[0], ["---"] * len(rows[0]), *rows[1:]))


def _cell(result: Mapping[str, Any] | None, sign: str = "") -> str:
    if result is None or result["value"] is None:
        return "-"
    low, high = result["interval"] or (None, None)
    return f"{result['value']:{sign}.4f} ({format_interval(low, high, sign)})"


def _number(value: float) -> str:
    return f"{value:.4f}"


def _fact(name: str, value: Any) -> str:
    if name.endswith("sha256"):
        return "unknown" if value is None else f"`{value[:12]}`"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if name == "parameters" else str(value)
