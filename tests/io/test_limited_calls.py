# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import time

import pytest

from monai_segdiff.exceptions import PredictionTimeoutError
from monai_segdiff.io import limited_calls as module
from monai_segdiff.io.limited_calls import limited_calls


def test_time_is_counted_from_the_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    heard: list[tuple[int, int]] = []
    with limited_calls("a.png", 90.0, 10.5, lambda *calls: heard.append(calls)) as report:
        report(0, 3)
        now = 100.5  # not later than allowed
        report(1, 3)
        now = 100.6
        with pytest.raises(PredictionTimeoutError, match=r"a\.png: not done after 10\.5 s; 2 of 3 calls"):
            report(2, 3)
    assert heard == [(0, 3), (1, 3)]


def test_without_a_limit() -> None:
    with limited_calls("a.png", time.monotonic() - 1e9, None, False) as report:
        report(1, 1)


@pytest.mark.parametrize(("progress", "shown"), [(True, True), (False, False), (lambda done, total: None, False)])
def test_the_bar_is_for_those_who_ask(progress: object, shown: bool, capsys: pytest.CaptureFixture[str]) -> None:
    with limited_calls("a.png", time.monotonic(), None, progress) as report:  # type: ignore[arg-type]
        for done in range(4):
            report(done, 3)
    assert ("3/3" in capsys.readouterr().err) == shown
