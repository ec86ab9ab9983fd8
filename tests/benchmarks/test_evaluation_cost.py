# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage.measure import label

from benchmarks.evaluation_cost import main


@pytest.fixture
def with_instances(dataset: Path, tmp_path: Path) -> Path:
    root = tmp_path / "data"
    shutil.copytree(dataset, root)
    (root / "instances").mkdir()
    for path in (root / "labels").glob("*.png"):
        Image.fromarray(label(np.asarray(Image.open(path)) > 0).astype(np.uint16)).save(root / "instances" / path.name)
    return root


def test_every_part_of_an_evaluation_is_timed(
    with_instances: Path, weights: Path, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--dataset_dir", str(with_instances), "--weights", str(weights), "--output_dir", str(tmp_path / "out")]
    main([*options, "--repeats", "1", *words])
    found = json.loads((tmp_path / "out" / "evaluation_cost.json").read_text())
    names = {"SaveUncertaintyd", "ProbabilityToInstancesd", "SaveOverlayd", "OverlapScorer", "BoundaryScorer"}
    names |= {"CalibrationScorer", "CalibrationScorer.draw", "InstanceScorer", "UncertaintyScorer"}
    assert names < found["parts"].keys()
    assert found["total_seconds"] == pytest.approx(sum(found["parts"].values()))
    first = sorted((with_instances / "instances").iterdir())[0]
    assert found["instances"] == np.asarray(Image.open(first)).max() > 1
    assert (found["image"], found["size"]) == (first.stem, [96, 96])
    printed = capsys.readouterr().out
    assert f"total{found['total_seconds']:.3f}" in printed.replace(" ", "")


def test_data_without_instances_are_refused(
    dataset: Path, weights: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--dataset_dir", str(dataset), "--weights", str(weights), *words])
    assert ended.value.code == 1
    assert "no instances for 3 of 3 images" in capsys.readouterr().err
