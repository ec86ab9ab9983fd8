# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.inference_table import format_seconds, with_ratios
from benchmarks.table import format_interval, format_table, write_csv, write_json


def test_columns_are_aligned() -> None:
    assert format_table([["a", "b", "long"], ["xyz", "12", "3"]], left=2).splitlines() == [
        "a    b   long",
        "-------------",
        "xyz  12     3",
    ]


@pytest.mark.parametrize(
    ("ends", "sign", "text"),
    [
        ((0.5, 0.75), "", "0.5000..0.7500"),
        ((-0.5, 0.75), "+", "-0.5000..+0.7500"),
        ((None, None), "", "-"),
    ],
)
def test_intervals(ends: tuple[float | None, float | None], sign: str, text: str) -> None:
    assert format_interval(*ends, sign) == text


def test_files(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", [{"x": 1, "y": None}, {"x": 2, "y": "a,b"}])
    assert (tmp_path / "a.csv").read_text() == 'x,y\n1,\n2,"a,b"\n'
    write_json(tmp_path / "a.json", {"x": [1.5, None]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": [1.5, None]}
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": [1.5, None]}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0123, "12.3 ms"), (1.0, "1 s"), (119.0, "119 s"), (120.0, "2 min"), (7200.0, "2 h"), (51234.0, "14.2 h")],
)
def test_times(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


def test_ratios() -> None:
    rows = [
        {"peak_memory": 300, "full_image": {"macs": 1000, "seconds": 10.0}},
        {"peak_memory": 200, "full_image": {"macs": 100, "seconds": 4.0}},
        {"peak_memory": 0, "full_image": {"macs": 100, "seconds": 4.0}},
    ]
    found = with_ratios(rows, peak_rate=200.0)
    assert found[1]["times_less_than_first"] == {"macs": 10.0, "seconds": 2.5, "peak_memory": 1.5}
    assert [row["share_of_peak_rate"] for row in found] == [0.5, 0.125, 0.125]
    assert found[2]["times_less_than_first"]["peak_memory"] is None
