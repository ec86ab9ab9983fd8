# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from monai_segdiff import SegDiffInferer, SegDiffPredictor
from monai_segdiff.cli import self_test as module
from monai_segdiff.cli.self_test import self_test

COMPARED = ["values finite", "same bits again", "same bits from two threads"]


@pytest.fixture(scope="module")
def pictures(picture_bundle: Path) -> SegDiffPredictor:
    return SegDiffPredictor.from_bundle(picture_bundle, device="cpu")


@pytest.fixture(autouse=True)
def _small_images(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "IMAGE_SIZE", 64)
    monkeypatch.setattr(module.tempfile, "tempdir", str(tmp_path))


def test_a_tiny_network_and_no_trace_of_it() -> None:
    state = torch.random.get_rng_state()
    assert [(check.name, check.passed) for check in self_test("cpu")] == [(name, True) for name in COMPARED]
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_bundle_for_pictures(pictures: SegDiffPredictor, tmp_path: Path) -> None:
    checks = list(self_test("cpu", pictures))
    assert [check.passed for check in checks] == [True, True, True, True, None]
    assert [check.name for check in checks[:4]] == [*COMPARED, "mask on the grid of the image"]
    assert checks[3].detail == "64 x 64"
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_for_volumes(volume_bundle: Path) -> None:
    checks = list(self_test("cpu", SegDiffPredictor.from_bundle(volume_bundle, device="cpu")))
    assert [check.passed for check in checks] == [True, True, True, True, None, None]
    assert checks[4].name.startswith("Dice of anterior 0.")
    assert checks[5].name.startswith("Dice of posterior 0.")


def test_dice_is_that_of_mask_and_truth(pictures: SegDiffPredictor, monkeypatch: pytest.MonkeyPatch) -> None:
    truth: list[np.ndarray] = []
    make, predict = module._sample, SegDiffPredictor.predict

    def sample(*arguments: Any) -> tuple[Path, np.ndarray]:
        image, label = make(*arguments)
        truth.append(label)
        return image, label

    def half_right(self: SegDiffPredictor, image: Path) -> Any:
        mask = truth[0].astype(np.uint8)
        mask[:32] = 0
        return dataclasses.replace(predict(self, image), mask=mask)

    monkeypatch.setattr(module, "_sample", sample)
    monkeypatch.setattr(SegDiffPredictor, "predict", half_right)
    *_, check = self_test("cpu", pictures)
    found, true = int((truth[0][32:] == 1).sum()), int((truth[0] == 1).sum())
    assert 0 < found < true
    assert check.name == f"Dice of nuclei {2 * found / (found + true):.3f}"


def test_other_classes_have_no_dice(pictures: SegDiffPredictor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures.bundle, "labels", {1: "building"})
    assert len(list(self_test("cpu", pictures))) == 4


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda result, call: result * torch.nan, [False, False, False]),
        (lambda result, call: result + (call == 1), [True, False, True]),
        (lambda result, call: result + (call == 3), [True, True, False]),
    ],
)
def test_what_is_wrong_is_found(spoil: Any, expected: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    segment, calls = SegDiffInferer.__call__, itertools.count()

    def spoilt(self: SegDiffInferer, *arguments: Any) -> torch.Tensor:
        return spoil(segment(self, *arguments), next(calls))

    monkeypatch.setattr(SegDiffInferer, "__call__", spoilt)
    assert [check.passed for check in self_test("cpu")] == expected


def test_a_mask_of_another_size_is_found(pictures: SegDiffPredictor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures.bundle, "labels", {1: "building"})
    predict = SegDiffPredictor.predict
    monkeypatch.setattr(
        SegDiffPredictor,
        "predict",
        lambda self, image: dataclasses.replace(predict(self, image), mask=np.zeros((64, 63), np.uint8)),
    )
    assert [check.passed for check in self_test("cpu", pictures)] == [True, True, True, False]
