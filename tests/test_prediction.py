# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import copy
import dataclasses
import pickle

import numpy as np
import pytest

from monai_segdiff import Prediction, Provenance

MADE = Provenance("b", "0.1.0", "aa", "bb", "0.1.0", "2.13", "cpu", {"num_generations": 1}, 0)


def prediction(affine: np.ndarray | None = None) -> Prediction:
    mask = np.zeros((2, 3), np.uint8)
    maps = np.zeros((1, 2, 3), np.float32)
    return Prediction(mask, maps, maps[0].copy(), affine, None, {1: "nuclei"}, True, None, MADE)


@pytest.mark.parametrize("travel", [lambda item: item, copy.deepcopy, lambda item: pickle.loads(pickle.dumps(item))])
def test_arrays_are_read_only_wherever_it_goes(travel) -> None:
    result = travel(prediction(np.eye(4)))
    for array in (result.mask, result.probability, result.uncertainty, result.affine):
        with pytest.raises(ValueError, match="read-only"):
            array[:] = 1
    assert result.provenance == MADE
    assert result.meta == {}
    assert result.series is None


def test_it_is_equal_to_itself_alone() -> None:
    first, second = prediction(), prediction()
    assert first == first  # noqa: PLR0124
    assert first != second
    assert len({first, second}) == 2


def test_it_is_frozen() -> None:
    for item, name in ((prediction(), "mask"), (MADE, "seed")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(item, name, None)


def test_provenance_is_plain() -> None:
    assert dataclasses.asdict(MADE)["settings"] == {"num_generations": 1}
