# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from monai_segdiff.inferers.call_progress import counted_calls


def test_a_function_hears_of_every_call() -> None:
    heard: list[tuple[int, int]] = []
    with counted_calls(lambda *now: heard.append(now), 6) as count:
        assert heard == [(0, 6)]
        for rows in (1, 2, 3):
            count(rows)
    assert heard == [(0, 6), (1, 6), (3, 6), (6, 6)]


def test_a_function_may_stop() -> None:
    def stop(done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), counted_calls(stop, 2) as count:
        count(1)


@pytest.mark.parametrize(("progress", "shown"), [(True, "2/2"), (False, "")])
def test_a_bar(progress: bool, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    with counted_calls(progress, 2) as count:
        count(2)
    assert shown in capsys.readouterr().err
    assert bool(shown) == progress
