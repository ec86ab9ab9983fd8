# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import csv
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines import SupervisedEvaluator
from monai.handlers import IgniteMetricHandler, from_engine
from monai.metrics import DiceMetric, MeanIoU

from monai_segdiff.handlers.evaluation_report import EvaluationReport
from monai_segdiff.handlers.scorers import ClassOverlapScorer, ImageScorer, Measurement, SurfaceScorer
from monai_segdiff.metrics.boundary_f import boundary_counts, boundary_f_of_counts, compute_boundary_f

SHAPE = (1, 12, 16)


def item(name: str, truth: torch.Tensor, prediction: torch.Tensor, label_name: str = "") -> dict[str, MetaTensor]:
    """The stub network returns its image, so the image is the prediction."""
    meta = {"filename_or_obj": name} if name else {}
    label_meta = {"filename_or_obj": label_name} if label_name else {}
    return {"image": MetaTensor(prediction, meta=meta), "label": MetaTensor(truth, meta=label_meta)}


def items() -> list[dict[str, MetaTensor]]:
    generator = torch.Generator().manual_seed(0)
    masks = [(torch.rand(2, *SHAPE, generator=generator) < 0.4).float() for _ in range(5)]
    masks[1][0] = 0  # empty truth
    masks[3][:] = 0  # nothing there, nothing found
    masks[4][1] = 0  # empty prediction
    # Not in alphabetic order, so that sorting shows.
    return [item(f"/data/{name}.png", *mask) for name, mask in zip("ebdac", masks, strict=True)]


def evaluator(
    data: list, report: EvaluationReport | None, batch_size: int = 2, **kwargs: object
) -> SupervisedEvaluator:
    return SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Dataset(data), batch_size=batch_size),
        network=torch.nn.Identity(),
        val_handlers=[report],
        **kwargs,
    )


def load(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())


def test_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = items()
    # The handler MeanDice has no ignore_empty.
    dice = IgniteMetricHandler(DiceMetric(ignore_empty=False), output_transform=from_engine(["pred", "label"]))
    engine = evaluator(
        data,
        EvaluationReport(tmp_path / "new", summary={"steps": 100, "protocol": "patches"}),
        key_val_metric={"val_dice": dice},
    )
    engine.run()
    report = load(tmp_path / "new")
    assert (report["steps"], report["protocol"]) == (100, "patches")
    assert (report["num_images"], report["empty_truth_images"]) == (5, 2)
    assert [row["name"] for row in report["images"]] == ["a.png", "b.png", "c.png", "d.png", "e.png"]
    order = [3, 1, 4, 2, 0]
    predictions = torch.stack([data[i]["image"].as_tensor() for i in order])
    truths = torch.stack([data[i]["label"].as_tensor() for i in order])
    expected = {
        "dice": DiceMetric(ignore_empty=False)(predictions, truths),
        "iou": MeanIoU(ignore_empty=False)(predictions, truths),
        "boundary_f": compute_boundary_f(predictions, truths),
    }
    for score, values in expected.items():
        each = [row[score] for row in report["images"]]
        assert each == pytest.approx(values[:, 0].tolist(), abs=1e-6)
        mean = report["mean"][score]
        assert mean["value"] == pytest.approx(values.mean().item(), abs=1e-6)
        assert mean["interval"][0] < mean["value"] < mean["interval"][1]
        assert engine.state.metrics[f"report_mean_{score}"] == mean["value"]
    assert report["mean"]["dice"]["value"] == pytest.approx(engine.state.metrics["val_dice"], abs=1e-6)
    tp, fp, fn = (sum(row[count] for row in report["images"]) for count in ("tp", "fp", "fn"))
    assert tp == int((predictions * truths).sum())
    assert report["pooled"]["iou"]["value"] == pytest.approx(tp / (tp + fp + fn))
    assert engine.state.metrics["report_pooled_dice"] == report["pooled"]["dice"]["value"]
    pairs = [(p[0].numpy() > 0, t[0].numpy() > 0) for p, t in zip(predictions, truths, strict=True)]
    added = sum(boundary_counts(*pair) for pair in pairs)
    assert report["pooled"]["boundary_f"]["value"] == pytest.approx(float(boundary_f_of_counts(*added)))
    assert "boundary_counts" not in report["images"][0]
    by_name = {row["name"]: row for row in report["images"]}
    assert [by_name["a.png"][score] for score in ("dice", "recall", "boundary_f")] == [1, 1, 1]
    assert [by_name[n][s] for n in ("b.png", "c.png") for s in ("dice", "precision", "recall")] == [0] * 6

    with open(tmp_path / "new" / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["a.png", "b.png", "c.png", "d.png", "e.png", "mean", "pooled"]
    assert float(rows[-2]["dice"]) == report["mean"]["dice"]["value"]
    assert rows[-2]["tp"] == ""
    assert int(rows[-1]["tp"]) == tp
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["metrics.csv", "metrics.json"]

    table = capsys.readouterr().out.rstrip("\n").split("\n")
    assert len({len(line) for line in table}) == 1, "columns are aligned"
    assert table[0].split() == ["image", "Dice", "IoU", "precision", "recall", "area", "ratio", "boundary", "F"]
    assert any(line.startswith("mean of images") and f"{report['mean']['iou']['value']:.4f}" in line for line in table)
    assert table[-2].startswith("pooled")
    assert "95 % interval" in table[-1]


def test_evaluations_in_a_row(tmp_path: Path) -> None:
    data = items()
    engine = evaluator(data, EvaluationReport(tmp_path))
    engine.run(global_epoch=1)
    first = load(tmp_path)
    engine.run(global_epoch=7)
    assert load(tmp_path) == first
    for entry in data:
        entry["image"] = entry["label"]
    engine.run(global_epoch=8)
    assert load(tmp_path)["mean"]["dice"] == {"value": 1.0, "interval": [1.0, 1.0]}


def test_one_image_has_no_interval(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluator(items()[:1], EvaluationReport(tmp_path)).run()
    report = load(tmp_path)
    assert all(result["interval"] is None for kind in ("mean", "pooled") for result in report[kind].values())
    assert "95 % interval" in capsys.readouterr().out


def test_volumes(tmp_path: Path) -> None:
    mask = torch.zeros(1, 6, 7, 8)
    mask[:, 2:4, 2:5, 2:6] = 1
    evaluator([item("v.nii", mask, mask)], EvaluationReport(tmp_path)).run()
    assert load(tmp_path)["images"][0]["tp"] == 24


@pytest.mark.parametrize(
    ("paths", "labels", "expected"),
    [
        (["/d/x/1.png", "/d/y/1.png"], ["", ""], ["x/1.png", "y/1.png"]),
        (["/d/x/1.png", "/d/x/1.png"], ["/a.png", "/b.png"], ["1.png", "1.png (2)"]),
        (["/d/1.png", "/d/1.png"], ["", ""], ["1.png", "1.png (2)"]),
        (["", ""], ["", ""], ["unnamed-0", "unnamed-0 (2)"]),
    ],
)
def test_names(tmp_path: Path, paths: list[str], labels: list[str], expected: list[str]) -> None:
    mask = torch.ones(SHAPE)
    data = [item(path, mask, mask, label) for path, label in zip(paths, labels, strict=True)]
    evaluator(data, EvaluationReport(tmp_path), batch_size=1).run()
    assert [row["name"] for row in load(tmp_path)["images"]] == expected


GOOD = torch.ones(SHAPE)


@pytest.mark.parametrize(
    ("truth", "prediction", "message"),
    [
        (GOOD, GOOD * torch.nan, "/d/bad.png: pred holds NaN"),
        (GOOD * torch.nan, GOOD, "/d/bad.png: label holds NaN"),
        (GOOD, GOOD * 0.3, "/d/bad.png: pred has values from 0.3 to 0.3"),
        (GOOD * 255, GOOD, "/d/bad.png: label has values from 255"),
        (GOOD, GOOD.repeat(2, 1, 1), "/d/bad.png: pred is \\(2, 12, 16\\)"),
        (GOOD[:, 1:], GOOD, "/d/bad.png: pred has shape .* expected equal"),
    ],
)
def test_bad_images(tmp_path: Path, truth: torch.Tensor, prediction: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluator([item("/d/bad.png", truth, prediction)], EvaluationReport(tmp_path)).run()
    assert not list(tmp_path.iterdir())


def test_bad_set_up(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="decollate=True"):
        evaluator(items(), EvaluationReport(tmp_path), decollate=False).run()
    with pytest.raises(ValueError, match="images"):
        EvaluationReport(tmp_path, summary={"images": 3})
    with pytest.raises(TypeError):
        EvaluationReport(tmp_path, summary={"model": object()})


WORKER = """
import sys

import torch
import torch.distributed as dist
from monai.data import DataLoader, Dataset, DistributedSampler, MetaTensor
from monai.engines import SupervisedEvaluator

from monai_segdiff.handlers.evaluation_report import EvaluationReport


def main(out, rank=0, world=1, store=""):
    torch.set_num_threads(1)
    if world > 1:
        dist.init_process_group("gloo", init_method="file://" + store, rank=rank, world_size=world)
    generator = torch.Generator().manual_seed(1)
    data = []
    for name in "dbaec":  # five images on two ranks: the sampler repeats one
        image, label = (torch.rand(2, 1, 9, 11, generator=generator) < 0.5).float()
        data.append({"image": MetaTensor(image, meta={"filename_or_obj": f"/d/{name}.png"}), "label": label})
    data = Dataset(data)
    sampler = DistributedSampler(data, num_replicas=world, rank=rank, shuffle=False, even_divisible=True)
    engine = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(data, batch_size=1, sampler=sampler),
        network=torch.nn.Identity(),
        val_handlers=[EvaluationReport(out, summary={"seed": 1})],
    )
    engine.run()
    if world > 1:
        dist.destroy_process_group()
    return dict(engine.state.metrics)


if __name__ == "__main__":
    out, rank, store = sys.argv[1:]
    print(main(out, int(rank), 2, store)["report_mean_dice"])
"""


def test_two_processes_write_the_same_report(tmp_path: Path) -> None:
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    ranks = [
        subprocess.Popen(
            [sys.executable, str(script), str(tmp_path / "two"), str(rank), str(tmp_path / "store")],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        finished = [process.communicate(timeout=120) for process in ranks]
    finally:
        for process in ranks:
            process.kill()
            process.wait()
    assert [process.returncode for process in ranks] == [0, 0], finished
    metrics = runpy.run_path(str(script))["main"](str(tmp_path / "one"))
    for name in ("metrics.json", "metrics.csv"):
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    assert load(tmp_path / "one")["num_images"] == 5
    # Every rank knows the result, only rank 0 prints the table.
    assert [float(out.split()[-1]) for out, _ in finished] == [metrics["report_mean_dice"]] * 2
    assert ["pooled" in out for out, _ in finished] == [True, False]


class Undefined(ImageScorer):
    """Defines its score for images with foreground alone."""

    headings = {"odd": "odd"}

    def measure(self, item: dict) -> Measurement:
        return Measurement({"odd": 0.25 if item["label"].any() else None}, np.zeros(1))


def test_scores_that_an_image_does_not_define_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    engine = evaluator(items(), EvaluationReport(tmp_path, scorers=[Undefined()]))
    engine.run()
    report = load(tmp_path)
    assert [row["odd"] for row in report["images"]].count(None) == 2
    assert report["mean"] == {"odd": {"value": 0.25, "interval": [0.25, 0.25]}}
    assert report["pooled"] == {}
    assert engine.state.metrics["report_mean_odd"] == 0.25
    empty = [entry for entry in items() if not entry["label"].any()]
    engine = evaluator(empty, EvaluationReport(tmp_path, scorers=[Undefined()]))
    engine.run()
    assert load(tmp_path)["mean"] == {"odd": {"value": None, "interval": None}}
    assert "report_mean_odd" not in engine.state.metrics
    assert "-" in capsys.readouterr().out.split("\n")[-4]


def test_label_maps_of_several_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truths = torch.zeros(3, 1, 6, 7, 8)
    truths[0, :, 2:4, 2:5, 2:6], truths[1, :, 1:3, 1:3, 1:3] = 1, 2
    predictions = truths.clone()
    predictions[1] = 0  # missed
    data = [item(f"{i}.nii", truths[i], predictions[i]) for i in range(3)]
    scorers = [ClassOverlapScorer(["a", "b", "absent"]), SurfaceScorer(["a", "b", "absent"], tolerance=0.5)]
    engine = evaluator(data, EvaluationReport(tmp_path, scorers=scorers), batch_size=3)
    engine.run()
    report = load(tmp_path)
    assert [row["dice"] for row in report["images"]] == [1, 0, None]
    assert [row["surface_dice_b"] for row in report["images"]] == [None, 0, None]
    assert report["mean"]["dice"]["value"] == report["pooled"]["dice"]["value"] == 0.5
    assert report["pooled"]["boundary_iou_b"] == {"value": 0.0, "interval": [0.0, 0.0]}
    assert report["pooled"]["dice_absent"] == report["mean"]["hd95_absent"] == {"value": None, "interval": None}
    assert "report_pooled_dice_absent" not in engine.state.metrics
    assert "Dice absent" in capsys.readouterr().out


def test_scorers_must_not_share_a_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"scorers have \['odd'\] twice"):
        EvaluationReport(tmp_path, scorers=[Undefined(), Undefined()])


def test_mean_is_the_plain_mean(tmp_path: Path) -> None:
    evaluator(items(), EvaluationReport(tmp_path), batch_size=3).run()
    report = load(tmp_path)
    for score, result in report["mean"].items():
        assert result["value"] == pytest.approx(np.mean([row[score] for row in report["images"]]))
