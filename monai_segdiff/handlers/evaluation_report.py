# SPDX-License-Identifier: Apache-2.0
"""A table of scores per image, with means and pooled scores, after every evaluation."""

from __future__ import annotations

import csv
import io
import json
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
import torch.distributed as dist
from ignite.engine import Engine, Events
from monai.config import PathLike
from monai.utils import CommonKeys

from ..data.atomic_write import atomic_write
from ..metrics.boundary_f import boundary_counts, boundary_f_of_counts
from ..metrics.segmentation_scores import bootstrap_interval, segmentation_scores

__all__ = ["EvaluationReport"]

_OVERLAP = ("dice", "iou", "precision", "recall")
_SCORES = (*_OVERLAP, "boundary_f")
_COUNTS = ("tp", "fp", "fn")
_BOUNDARY = "boundary_counts"
_RESERVED = ("images", "mean", "pooled", "num_images", "empty_truth_images")


def _path_of(value: Any) -> str:
    """File name that the reader left in the meta data, or an empty string."""
    name = getattr(value, "meta", {}).get("filename_or_obj", "")
    return os.fspath(name) if isinstance(name, (str, os.PathLike)) else ""


def _binary(name: str, what: str, value: Any) -> torch.Tensor:
    """Boolean [1, *spatial] mask; ``DiceMetric`` would score NaN or a soft map without a word."""
    if not isinstance(value, torch.Tensor) or value.ndim not in (3, 4) or value.shape[0] != 1:
        found = tuple(value.shape) if hasattr(value, "shape") else type(value).__name__
        raise ValueError(f"{name}: {what} is {found}, expected a tensor of shape [1, *spatial] with 2 or 3 axes.")
    if torch.isnan(value).any():
        raise ValueError(f"{name}: {what} holds NaN, expected only 0 and 1.")
    if not ((value == 0) | (value == 1)).all():
        low, high = float(value.min()), float(value.max())
        raise ValueError(f"{name}: {what} has values from {low:g} to {high:g}, expected only 0 and 1; binarise first.")
    return value.detach().as_subclass(torch.Tensor).bool()


class EvaluationReport:
    """Scores every image of an evaluation and writes ``metrics.csv`` and ``metrics.json``.

    For each image: tp, fp, fn (pixels), Dice, IoU, precision, recall (see
    :func:`monai_segdiff.metrics.segmentation_scores` for empty masks: both empty is 1, one empty is 0) and boundary F
    (:func:`monai_segdiff.metrics.compute_boundary_f`). Over the set: the *mean of images* of each score, which is what
    SegDiff (arXiv 2112.00390) reports, and the *pooled* scores of the summed counts, in which images with much
    foreground weigh more; each with a 95 % bootstrap interval over images.

    ``metrics.json`` holds ``images`` (a list of rows), ``mean`` and ``pooled`` (``{score: {"value", "interval"}}``,
    ``interval`` null for a single image), ``num_images``, ``empty_truth_images`` and everything in ``summary``. A
    table is printed. The evaluator's ``state.metrics`` gets ``report_mean_<score>`` and ``report_pooled_<score>``.

    With several processes rows are gathered and rank 0 writes. Images that a distributed sampler evaluated twice to
    even out the ranks are counted once: a row is known by its image file, label file and how often its process has
    seen that pair.

    Args:
        output_dir: folder to write to; created if needed.
        summary: what else belongs into ``metrics.json``: protocol, steps, generations, seed, ... JSON values.
        boundary_distance: largest tolerance of boundary F in pixels.

    Raises:
        ValueError: ``summary`` uses a name that the report itself writes.
        TypeError: ``summary`` cannot be written as JSON.

    Example:
        >>> report = EvaluationReport("results", summary={"steps": 100})
        >>> report.attach(evaluator)  # doctest: +SKIP
    """

    def __init__(
        self, output_dir: PathLike, summary: Mapping[str, Any] | None = None, boundary_distance: int = 5
    ) -> None:
        self.output_dir = Path(output_dir)
        self.summary = dict(summary or {})
        self.boundary_distance = boundary_distance
        taken = sorted(set(self.summary) & set(_RESERVED))
        if taken:
            raise ValueError(f"summary has {taken}, expected names other than {list(_RESERVED)}.")
        json.dumps(self.summary, allow_nan=False)  # fail now, not after hours of sampling
        self._rows: dict[tuple[str, str, int], dict[str, Any]] = {}
        self._seen: Counter[tuple[str, str]] = Counter()

    def attach(self, engine: Engine) -> None:
        """Attach to an evaluator that decollates (the default of ``SupervisedEvaluator``).

        Args:
            engine: evaluator whose post-processing leaves binary ``pred`` and ``label`` of shape [1, *spatial].
        """
        engine.add_event_handler(Events.EPOCH_STARTED, self._reset)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._score_batch)
        engine.add_event_handler(Events.COMPLETED, self._report)

    def _reset(self, engine: Engine) -> None:
        self._rows.clear()
        self._seen.clear()

    def _score_batch(self, engine: Engine) -> None:
        batch, output = engine.state.batch, engine.state.output
        if not isinstance(batch, list) or not isinstance(output, list):
            raise TypeError(
                f"batch is {type(batch).__name__} and output {type(output).__name__}, expected lists with one "
                "dictionary per image; use the evaluator with decollate=True."
            )
        for item, result in zip(batch, output, strict=True):
            path = _path_of(item[CommonKeys.IMAGE]) or f"unnamed-{idist.get_rank()}"
            files = (path, _path_of(result[CommonKeys.LABEL]))
            row = self._score(path, result[CommonKeys.PRED], result[CommonKeys.LABEL])
            self._rows[(files[0], files[1], self._seen[files])] = row
            self._seen[files] += 1

    def _score(self, name: str, prediction: Any, label: Any) -> dict[str, Any]:
        predicted = _binary(name, "prediction", prediction)
        truth = _binary(name, "label", label).to(predicted.device)
        if predicted.shape != truth.shape:
            found = f"{tuple(predicted.shape)} and label {tuple(truth.shape)}"
            raise ValueError(f"{name}: prediction has shape {found}, expected equal shapes.")
        # Counted as integers: MONAI's get_confusion_matrix sums float32, which is inexact above 2^24 voxels.
        hits = (predicted & truth, predicted & ~truth, ~predicted & truth)
        counts = dict(zip(_COUNTS, (int(hit.sum()) for hit in hits), strict=True))
        boundary = boundary_counts(predicted[0].cpu().numpy(), truth[0].cpu().numpy(), self.boundary_distance)
        scores = {**segmentation_scores(**counts), "boundary_f": float(boundary_f_of_counts(*boundary))}
        return {**scores, **counts, _BOUNDARY: boundary.tolist()}

    def _gather(self) -> list[dict[str, Any]]:
        """Rows of all ranks, each image once, sorted by path, with names short enough for a table."""
        rows = self._rows
        if idist.get_world_size() > 1:
            parts: list[Any] = [None] * idist.get_world_size()
            dist.all_gather_object(parts, rows)
            rows = {}
            for part in parts:
                rows = {**part, **rows}  # the lowest rank's row wins, whatever the order of arrival
        if not rows:
            raise ValueError("no image was evaluated, expected at least one; is the data list empty?")
        keys = sorted(rows)
        base_names = {path: os.path.basename(path) for path, _, _ in keys}
        if len(set(base_names.values())) < len(base_names):
            # Equal file names in different folders: show as much of the path as tells them apart.
            parent = os.path.dirname(os.path.commonprefix(list(base_names)))
            base_names = {path: path[len(parent) :].lstrip("/\\") for path in base_names}
        used: Counter[str] = Counter()
        named = []
        for key in keys:
            name = base_names[key[0]]
            used[name] += 1
            suffix = f" ({used[name]})" if used[name] > 1 else ""
            named.append({"name": name + suffix, **rows[key]})
        return named

    def _report(self, engine: Engine) -> None:
        rows = self._gather()
        counts = [[row[count] for count in _COUNTS] for row in rows]
        mean: dict[str, dict[str, Any]] = {}
        for score in _SCORES:
            values = [row[score] for row in rows]
            mean[score] = {"value": sum(values) / len(values), "interval": bootstrap_interval(values)}
        totals = segmentation_scores(*(sum(column) for column in zip(*counts, strict=True)))
        pooled = {
            score: {"value": totals[score], "interval": bootstrap_interval(counts, statistic=score)}
            for score in _OVERLAP
        }
        boundary = [row.pop(_BOUNDARY) for row in rows]
        pooled["boundary_f"] = {
            "value": float(boundary_f_of_counts(*(sum(column) for column in zip(*boundary, strict=True)))),
            "interval": bootstrap_interval(boundary, statistic=boundary_f_of_counts),
        }
        for kind, scores in (("mean", mean), ("pooled", pooled)):
            for score, result in scores.items():
                engine.state.metrics[f"report_{kind}_{score}"] = result["value"]
        if idist.get_rank() != 0:
            return
        report = {
            **self.summary,
            "num_images": len(rows),
            "empty_truth_images": sum(row["tp"] + row["fn"] == 0 for row in rows),
            "mean": mean,
            "pooled": pooled,
            "images": rows,
        }
        text = json.dumps(report, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
        for name, content in (("metrics.json", text), ("metrics.csv", _csv(rows, mean, pooled))):
            with atomic_write(self.output_dir / name) as temporary:
                temporary.write_text(content, encoding="utf-8")
        print(_table(rows, mean, pooled), flush=True)


def _csv(rows: list[dict[str, Any]], mean: dict[str, Any], pooled: dict[str, Any]) -> str:
    """One line per image, then ``mean`` and ``pooled``; cells that are not defined stay empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, ("name", *_SCORES, *_COUNTS), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    writer.writerow({"name": "mean", **{score: result["value"] for score, result in mean.items()}})
    totals = {count: sum(row[count] for row in rows) for count in _COUNTS}
    writer.writerow({"name": "pooled", **{score: result["value"] for score, result in pooled.items()}, **totals})
    return text.getvalue()


def _table(rows: list[dict[str, Any]], mean: dict[str, Any], pooled: dict[str, Any]) -> str:
    """The report for the terminal, columns aligned."""
    lines = [["image", "Dice", "IoU", "precision", "recall", "boundary F"]]
    lines += [[row["name"], *(f"{row[score]:.4f}" for score in _SCORES)] for row in rows]
    for title, scores in (("mean of images", mean), ("pooled", pooled)):
        values, intervals = [title], ["  95 % interval"]
        for score in _SCORES:
            interval = scores[score]["interval"]
            values.append(f"{scores[score]['value']:.4f}")
            intervals.append(f"{interval[0]:.4f}..{interval[1]:.4f}" if interval else "-")
        lines += [values, intervals]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    printed = [
        "  ".join(
            [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]
        )
        for line in lines
    ]
    rule = "-" * len(printed[0])
    return "\n".join([printed[0], rule, *printed[1:-4], rule, *printed[-4:]])
