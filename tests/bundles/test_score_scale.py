# SPDX-License-Identifier: Apache-2.0
"""The grid on which nuclei are scored, whatever the scale at which the network works."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from monai_segdiff import ProbabilityToMask, monuseg_datalist
from monai_segdiff.metrics import compute_aggregated_jaccard

EVALUATION = "train evaluate"


def report_of(folder: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    return report


@pytest.mark.parametrize(("image_scale", "score_scale"), [(1.0, 0.5), (0.5, 1.0), (0.75, 0.75)])
def test_masks_are_compared_on_the_grid_of_the_scores(
    bundle, tmp_path: Path, image_scale: float, score_scale: float
) -> None:
    options = {"image_scale": image_scale, "score_scale": score_scale, "threshold": 0.45}
    run = bundle.run(EVALUATION, ckpt=bundle.weights, output_dir=tmp_path, **options)
    report = report_of(tmp_path)
    assert (report["image_scale"], report["score_scale"]) == (image_scale, score_scale)
    inferer, network = (run.parser.get_parsed_content(name) for name in ("inferer", "network"))
    size, edge = round(128 * image_scale), round(128 * score_scale)
    for item, row in zip(run.parser.get_parsed_content("validate#dataset"), report["images"], strict=True):
        assert item["image"].shape[1:] == (size, size)
        assert item["label"].shape[1:] == item["picture"].shape[1:] == (edge, edge)
        probability = inferer(item["image"].as_tensor()[None], network)
        how = {"mode": "area"} if size >= edge else {"mode": "bilinear", "align_corners": False}
        resized = torch.nn.functional.interpolate(probability, (edge, edge), **how)
        found = ProbabilityToMask(threshold=0.45)(resized[0])[0].numpy() > 0
        # Which pixels of a mask remain is the transforms' affair, and tested there.
        truth = item["label"].numpy()[0] > 0
        counts = {"tp": found & truth, "fp": found & ~truth, "fn": ~found & truth, "tn": ~found & ~truth}
        for name in set(counts) & set(row):
            assert row[name] == counts[name].sum(), name
        assert 0 < row["tp"] < row["tp"] + row["fp"] + row["fn"] <= edge**2
    overlays = sorted((tmp_path / "overlays").iterdir())
    assert len(overlays) == len(report["images"])
    assert {np.asarray(Image.open(path)).shape[:2] for path in overlays} == {(edge, edge)}


def test_the_published_grid_is_the_default(bundle, tmp_path: Path) -> None:
    scoring = bundle.scoring
    try:
        bundle.scoring = {}
        bundle.run(EVALUATION, ckpt=bundle.weights, output_dir=tmp_path)
    finally:
        bundle.scoring = scoring
    report = report_of(tmp_path)
    assert (report["image_scale"], report["score_scale"]) == (1.0, 0.512)
    overlays = (tmp_path / "overlays").iterdir()
    assert {np.asarray(Image.open(path)).shape[:2] for path in overlays} == {(65, 65)}


@pytest.mark.parametrize(
    ("score_scale", "expected"),
    [
        (0.512, {"min_distance": 2, "sigma": 1.25, "min_size": 5}),
        (1.0, {"min_distance": 4, "sigma": 2.44, "min_size": 19}),
        (0.1, {"min_distance": 1, "sigma": 0.244, "min_size": 0}),
    ],
)
@pytest.mark.parametrize("name", ["bundle", "nuclei"])
def test_sizes_of_nuclei_follow_the_grid(
    request: pytest.FixtureRequest, name: str, score_scale: float, expected: dict[str, float]
) -> None:
    own = request.getfixturevalue(name)
    settings = own.settings(EVALUATION, score_scale=score_scale, ckpt=own.weights)
    found = own.workflow(EVALUATION, **settings).parser.get_parsed_content("instance_separation")
    assert found == pytest.approx(expected, abs=1e-3)


def test_everything_at_two_scales(bundle, tmp_path: Path) -> None:
    """Maps of uncertainty and objects have to get to the grid as well."""
    entries = monuseg_datalist(bundle.dataset)[:2]
    for entry in entries:
        for key in ("image", "label"):
            folder = tmp_path / "data" / f"{key}s"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / Path(entry[key]).name).write_bytes(Path(entry[key]).read_bytes())
        mask = np.asarray(Image.open(entry["label"])) > 0
        (tmp_path / "data" / "instances").mkdir(exist_ok=True)
        Image.fromarray(mask.astype(np.uint16)).save(tmp_path / "data" / "instances" / f"{entry['name']}.png")
    run = bundle.run(
        EVALUATION,
        ckpt=bundle.weights,
        dataset_dir=tmp_path / "data",
        output_dir=tmp_path / "out",
        score_scale=0.5,
        uncertainty=True,
        instances=True,
        num_generations=2,
    )
    report = report_of(tmp_path / "out")
    item = run.parser.get_parsed_content("validate#dataset")[0]
    assert item["instances"].shape == item["label"].shape == (1, 64, 64)
    assert torch.equal(item["instances"].as_tensor() > 0, item["label"].as_tensor() > 0)
    saved = np.load(tmp_path / "out" / "uncertainty" / f"{entries[0]['name']}_uncertainty.npz")
    assert {saved[name].shape for name in saved.files} == {(1, 64, 64)}
    inferer, network = (run.parser.get_parsed_content(name) for name in ("inferer", "network"))
    statistics = inferer.statistics(item["image"].as_tensor()[None], network)
    coarse = torch.nn.functional.avg_pool2d(statistics.mean, 2)
    entropy = torch.special.entr(coarse) + torch.special.entr(1 - coarse)  # of the mean that is scored
    np.testing.assert_allclose(saved["entropy"][0], entropy[0, 0].numpy().T, atol=1e-6)
    separate = run.parser.get_parsed_content("validate#postprocessing").transforms
    (objects,) = (step.transform for step in separate if type(step).__name__ == "ProbabilityToInstancesd")
    aji = compute_aggregated_jaccard(objects(coarse[0])[None], item["instances"].as_tensor()[None]).item()
    assert report["images"][0]["aji"] == pytest.approx(aji, abs=1e-6)
