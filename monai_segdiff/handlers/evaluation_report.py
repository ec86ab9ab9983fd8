# SPDX-License-Identifier: Apache-2.0
"""A table of scores per image, with means and pooled scores, after every evaluation."""

from __future__ import annotations

import csv
import io
import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch.distributed as dist
from ignite.engine import Engine, Events
from monai.config import PathLike
from monai.utils import CommonKeys

from ..data.atomic_write import atomic_write
from ..metrics.segmentation_scores import bootstrap_interval
from .scorers import BoundaryScorer, ImageScorer, OverlapScorer

__all__ = ["EvaluationReport"]

_RESERVED = ("images", "mean", "pooled", "num_images", "empty_truth_images")
# Scores beside one another in the printed table.
_TABLE_COLUMNS = 8


def _path_of(value: Any) -> str:
    """File name that the reader left in the meta data, or an empty string."""
    name = getattr(value, "meta", {}).get("filename_or_obj", "")
    return os.fspath(name) if isinstance(name, (str, os.PathLike)) else ""


class EvaluationReport:
    """Scores every image of an evaluation and writes ``metrics.csv``, ``metrics.json`` and pictures.

    What is scored is up to the ``scorers``. Over the set: the *mean of images* of each score, which is what SegDiff
    (arXiv 2112.00390) reports, and, where it is defined, the *pooled* score of the summed counts, in which images with
    much foreground weigh more; each with a 95 % bootstrap interval over images. A score that an image does not define
    is left out of the mean; a pooled score that no image defines is null.

    ``metrics.json`` holds ``images`` (a list of rows), ``mean`` and ``pooled`` (``{score: {"value", "interval"}}``,
    ``interval`` null for a single image), ``num_images``, ``empty_truth_images`` (with an
    :class:`~monai_segdiff.OverlapScorer`) and everything in ``summary``. A table is printed. The evaluator's
    ``state.metrics`` gets ``report_mean_<score>`` and ``report_pooled_<score>``, where defined.

    With several processes rows are gathered and rank 0 writes. Images that a distributed sampler evaluated twice to
    even out the ranks are counted once: a row is known by its image file, label file and how often its process has
    seen that pair.

    Args:
        output_dir: folder to write to; created if needed.
        summary: what else belongs into ``metrics.json``: protocol, steps, generations, seed, ... JSON values.
        scorers: what to score. Default: Dice, IoU, precision, recall, area ratio and boundary F of the masks.

    Raises:
        ValueError: ``summary`` uses a name that the report itself writes, or two scorers use the same name.
        TypeError: ``summary`` cannot be written as JSON.

    Example:
        >>> report = EvaluationReport("results", summary={"steps": 100})
        >>> report.attach(evaluator)  # doctest: +SKIP
    """

    def __init__(
        self,
        output_dir: PathLike,
        summary: Mapping[str, Any] | None = None,
        scorers: Sequence[ImageScorer] | None = None,
    ) -> None:
        self.output_dir = Path(output_dir)
        self.summary = dict(summary or {})
        self.scorers = [OverlapScorer(), BoundaryScorer()] if scorers is None else list(scorers)
        taken = sorted(set(self.summary) & set(_RESERVED))
        if taken:
            raise ValueError(f"summary has {taken}, expected names other than {list(_RESERVED)}.")
        names = Counter(name for scorer in self.scorers for name in (*scorer.headings, *scorer.shown_counts))
        twice = sorted(name for name, count in names.items() if count > 1)
        if twice:
            raise ValueError(f"scorers have {twice} twice, expected each score once.")
        json.dumps(self.summary, allow_nan=False)  # fail now, not after hours of sampling
        self.headings = {name: heading for scorer in self.scorers for name, heading in scorer.headings.items()}
        self.shown_counts = [name for scorer in self.scorers for name in scorer.shown_counts]
        self._rows: dict[tuple[str, str, int], dict[str, Any]] = {}
        self._seen: Counter[tuple[str, str]] = Counter()

    def attach(self, engine: Engine) -> None:
        """Attach to an evaluator that decollates (the default of ``SupervisedEvaluator``).

        Args:
            engine: evaluator whose post-processing leaves what the scorers ask for.
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
            self._rows[(files[0], files[1], self._seen[files])] = self._score(path, {**item, **result})
            self._seen[files] += 1

    def _score(self, name: str, item: Mapping[Any, Any]) -> dict[str, Any]:
        row: dict[str, Any] = {"scores": {}, "counts": []}
        for scorer in self.scorers:
            try:
                scores, counts = scorer.measure(item)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
            row["scores"] |= scores
            row["counts"].append(counts.tolist())
        return row

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
        found = self._gather()
        counts = [np.array([row["counts"][i] for row in found]) for i in range(len(self.scorers))]
        mean, pooled = self._mean([row["scores"] for row in found]), self._pooled(counts)
        for kind, scores in (("mean", mean), ("pooled", pooled)):
            defined = {score: result["value"] for score, result in scores.items() if result["value"] is not None}
            engine.state.metrics.update({f"report_{kind}_{score}": value for score, value in defined.items()})
        if idist.get_rank() != 0:
            return
        shown: dict[str, np.ndarray] = {}
        for scorer, of_images in zip(self.scorers, counts, strict=True):
            shown |= {name: of_images[:, i] for i, name in enumerate(scorer.shown_counts)}
        rows = [
            {"name": row["name"], **row["scores"], **{name: values[i].item() for name, values in shown.items()}}
            for i, row in enumerate(found)
        ]
        report = {**self.summary, "num_images": len(rows)}
        if {"tp", "fn"} <= set(self.shown_counts):
            report["empty_truth_images"] = sum(row["tp"] + row["fn"] == 0 for row in rows)
        report |= {"mean": mean, "pooled": pooled, "images": rows}
        text = json.dumps(report, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
        sums = {name: values.sum().item() for name, values in shown.items()}
        for name, content in (("metrics.json", text), ("metrics.csv", self._csv(rows, mean, pooled, sums))):
            with atomic_write(self.output_dir / name) as temporary:
                temporary.write_text(content, encoding="utf-8")
        for scorer, of_images in zip(self.scorers, counts, strict=True):
            scorer.draw(self.output_dir, of_images)
        names = list(self.headings)
        for start in range(0, len(names), _TABLE_COLUMNS):
            print(self._table(names[start : start + _TABLE_COLUMNS], rows, mean, pooled), flush=True)

    def _mean(self, scores: list[dict[str, float | None]]) -> dict[str, dict[str, Any]]:
        """Mean over those images that define a score, None if none does."""
        mean = {}
        for name in self.headings:
            values = [value for row in scores if (value := row[name]) is not None]
            mean[name] = {
                "value": sum(values) / len(values) if values else None,
                "interval": bootstrap_interval(values),
            }
        return mean

    def _pooled(self, counts: list[np.ndarray]) -> dict[str, dict[str, Any]]:
        pooled = {}
        for scorer, of_images in zip(self.scorers, counts, strict=True):
            for name, value in scorer.pool(*of_images.sum(axis=0)).items():
                defined = not np.isnan(value)
                interval = bootstrap_interval(of_images, statistic=_one_of(scorer, name)) if defined else None
                pooled[name] = {"value": float(value) if defined else None, "interval": interval}
        return pooled

    def _csv(
        self, rows: list[dict[str, Any]], mean: dict[str, Any], pooled: dict[str, Any], sums: dict[str, Any]
    ) -> str:
        """One line per image, then ``mean`` and ``pooled``; cells that are not defined stay empty."""
        text = io.StringIO()
        columns = ("name", *self.headings, *self.shown_counts)
        writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        writer.writerow({"name": "mean", **{score: result["value"] for score, result in mean.items()}})
        writer.writerow({"name": "pooled", **{score: result["value"] for score, result in pooled.items()}, **sums})
        return text.getvalue()

    def _table(
        self, names: Sequence[str], rows: list[dict[str, Any]], mean: dict[str, Any], pooled: dict[str, Any]
    ) -> str:
        """Some scores for the terminal, columns aligned."""
        lines = [["image", *(self.headings[name] for name in names)]]
        lines += [[row["name"], *(_cell(row[name]) for name in names)] for row in rows]
        for title, scores in (("mean of images", mean), ("pooled", pooled)):
            values, intervals = [title], ["  95 % interval"]
            for name in names:
                result = scores.get(name, {"value": None, "interval": None})
                low_high = result["interval"]
                values.append(_cell(result["value"]))
                intervals.append(f"{low_high[0]:.4f}..{low_high[1]:.4f}" if low_high else "-")
            lines += [values, intervals]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        printed = []
        for title, *cells in lines:
            aligned = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
            printed.append("  ".join([title.ljust(widths[0]), *aligned]))
        rule = "-" * len(printed[0])
        return "\n".join([printed[0], rule, *printed[1:-4], rule, *printed[-4:]])


def _one_of(scorer: ImageScorer, name: str) -> Callable[..., np.ndarray]:
    return lambda *counts: scorer.pool(*counts)[name]


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
