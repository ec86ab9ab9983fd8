# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.bundle import Bundle
from benchmarks.cost import bundle_macs
from benchmarks.measurement import Job, Measurement, measure
from benchmarks.scaling import main, scaling


def test_one_factor_at_a_time(bundle: Bundle) -> None:
    jobs: list[Job] = []

    def record(job: Job) -> Measurement:
        jobs.append(job)
        return measure(job)

    rows = scaling(bundle, [64, 112], [1, 3], [1, 2], base_size=64, measure=record)
    assert [(row["factor"], row["size"], row["generations"], row["steps"]) for row in rows] == [
        *(("size", 64, 1, 1), ("size", 112, 1, 1)),
        *(("generations", 64, 1, 1), ("generations", 64, 3, 1)),
        *(("steps", 64, 1, 1), ("steps", 64, 1, 2)),
    ]
    # What they have in common is measured once.
    assert len(jobs) == 4
    assert [(row["encoder_passes"], row["denoiser_passes"]) for row in rows] == [
        *((1, 1), (4, 4)),
        *((1, 1), (1, 3)),
        *((1, 1), (1, 2)),
    ]
    macs = bundle_macs(bundle)
    assert rows[3]["macs"] == macs.encoder + 3 * macs.denoiser


def test_command(
    tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.scaling.measure_isolated", measure)
    small = ["--sizes", "64", "--generations", "1", "--steps", "1", "--base_size", "64"]
    main([*small, "--output_dir", str(tmp_path), *words])
    assert capsys.readouterr().out.splitlines()[2].split()[:4] == ["size", "64^2", "1", "1"]
    rows = json.loads((tmp_path / "scaling.json").read_text())["rows"]
    assert [row["factor"] for row in rows] == ["size", "generations", "steps"]
    with Image.open(tmp_path / "scaling.png") as picture:
        assert picture.size[0] > 500


@pytest.mark.parametrize("word", ["0", "-1", "1.5", "x"])
def test_bad_numbers(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--sizes", word])
    assert "--sizes" in capsys.readouterr().err
