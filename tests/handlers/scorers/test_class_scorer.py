# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import numpy as np
import pytest

from monai_segdiff.handlers.scorers import ClassOverlapScorer, SurfaceScorer
from monai_segdiff.handlers.scorers.class_scorer import ClassScorer, defined_scores


@pytest.mark.parametrize("kind", [ClassOverlapScorer, SurfaceScorer])
def test_headings(kind: type[ClassScorer]) -> None:
    headings = kind(["head", "tail"]).headings
    score, title = next(iter(kind.titles.items()))
    assert list(headings.items())[:3] == [
        (score, title),
        (f"{score}_head", f"{title} head"),
        (f"{score}_tail", f"{title} tail"),
    ]
    assert len(headings) == 3 * len(kind.titles)
    assert max(map(len, kind.titles.values())) <= 4, "room for the names of classes"


def test_means_leave_out_what_is_not_defined() -> None:
    scorer = ClassOverlapScorer(["a", "b"])
    values = np.array([[0.5, math.nan, math.nan, 0.0], [1.0, 0.25, math.nan, 0.5]])
    found = scorer._with_means({"dice": values})
    np.testing.assert_array_equal(found["dice"], [0.75, 0.25, math.nan, 0.25])
    np.testing.assert_array_equal(found["dice_a"], values[0])
    np.testing.assert_array_equal(found["dice_b"], values[1])
    assert defined_scores({name: value[1] for name, value in found.items()}) == {
        "dice": 0.25,
        "dice_a": None,
        "dice_b": 0.25,
    }


@pytest.mark.parametrize("names", [[], "ab", ["a", "a"]])
def test_bad_names(names: list[str]) -> None:
    with pytest.raises(ValueError, match="expected a list of different names"):
        ClassOverlapScorer(names)
