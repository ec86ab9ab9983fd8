# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.bundle import Bundle
from benchmarks.study import Setting, Study
from monai_segdiff import SegDiffInferer, SegDiffUNet
from monai_segdiff.exceptions import DatasetError

ONE, THREE = Setting(1, 1), Setting(3, 1)


class Sampler:
    """Stands in for a method of the inferer: samples nothing, remembers what it was asked for, and may be stopped."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.stop_after = stop_after
        self.calls: list[tuple[int, int]] = []

    def __call__(self, inferer: SegDiffInferer, image: torch.Tensor, network: torch.nn.Module) -> torch.Tensor:
        if len(self.calls) == self.stop_after:
            raise KeyboardInterrupt
        self.calls.append((inferer.scheduler.num_inference_steps or 0, inferer.num_generations))
        return image[None, :, :1] + torch.arange(inferer.num_generations)[:, None, None, None, None]


def _score(samples: np.ndarray, truth: np.ndarray, setting: Setting) -> dict[str, Any]:
    assert truth.dtype == bool
    return {"last": float(samples[setting.generations - 1].mean()), "of": len(samples), "foreground": int(truth.sum())}


def test_results(bundle: Bundle, dataset: Path, weights: Path, tmp_path: Path) -> None:
    study = Study(tmp_path / "a.json", bundle, dataset, {"a": str(weights)}, num_images=2, extra=7)
    sampler = Sampler()
    study.run([Setting(3, 2), ONE, Setting(3, 4)], sampler, _score)
    # Fewest steps first, and the largest number of generations for all of a number of steps.
    assert sampler.calls == [(1, 1), (3, 4)] * 2
    items = bundle.items(dataset)
    for setting, sampled in ((ONE, 1), (Setting(3, 2), 4), (Setting(3, 4), 4)):
        rows = study.results(study.arms[0], setting)
        assert [row["name"] for row in rows] == [item.name for item in items[:2]]
        for row, item in zip(rows, items[:2], strict=True):
            assert (row["weights"], row["extra"], row["of"]) == ("a", 7, sampled)
            assert (row["steps"], row["generations"]) == setting
            assert row["last"] == pytest.approx(float(item.image[0].mean()) + setting.generations - 1, abs=1e-5)
            assert row["foreground"] == int(item.label.sum())
    content = json.loads((tmp_path / "a.json").read_text())
    assert len(content["rows"]) == 6
    assert content["protocol"]["window_size"] == 64


def test_continued_image_by_image(bundle: Bundle, dataset: Path, weights: Path, tmp_path: Path) -> None:
    def run(sampler: Sampler, settings: list[Setting], num_images: int | None = None, extra: int = 0) -> list:
        study = Study(tmp_path / "a.json", bundle, dataset, {"a": str(weights)}, num_images, extra=extra)
        study.run(settings, sampler, _score)
        return sampler.calls

    # After the first image, and the first setting of the second.
    with pytest.raises(KeyboardInterrupt):
        run(Sampler(stop_after=3), [ONE, THREE])
    assert run(Sampler(), [ONE, THREE], num_images=2) == [(3, 1)]
    assert run(Sampler(), [ONE, THREE], num_images=1) == []
    assert run(Sampler(), [ONE, THREE]) == [(1, 1), (3, 1)]
    assert run(Sampler(), [ONE, THREE], extra=1) == [(1, 1), (3, 1)] * 3


def test_other_contents_are_other_results(bundle: Bundle, dataset: Path, weights: Path, tmp_path: Path) -> None:
    def run(folder: Path, file: Path) -> int:
        study, sampler = Study(tmp_path / "a.json", bundle, folder, {"a": str(file)}), Sampler()
        study.run([ONE], sampler, _score)
        return len(sampler.calls)

    assert run(dataset, weights) == 3
    copied = tmp_path / "copy"
    shutil.copytree(dataset, copied)
    # Same contents elsewhere, under another name.
    shutil.copy(weights, tmp_path / "renamed.pt")
    assert run(copied, tmp_path / "renamed.pt") == 0
    label = sorted(path for path in copied.rglob("*.png") if path.parent.name == "labels")[1]
    Image.fromarray(np.asarray(Image.open(label)) * 0).save(label)
    assert run(copied, weights) == 1
    state = {name: value + 0.01 for name, value in torch.load(weights).items()}
    torch.save(state, tmp_path / "renamed.pt")
    assert run(dataset, tmp_path / "renamed.pt") == 3


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"window_mode": "joint"}, r"\['window_mode'\]"),
        ({"amp": True}, r"\['amp'\]"),
        ({"stop_early": True}, r"\['stop_early'\]"),
        ({"seed": 1}, r"\['seed'\]"),
        ({"scheduler#clip_sample": False}, r"\['scheduler'\]"),
        ({"network_def#norm_eps": 1e-4}, r"\['network_def'\]"),
    ],
)
def test_another_protocol_is_refused(
    bundle: Bundle, dataset: Path, weights: Path, tmp_path: Path, changes: dict, names: str
) -> None:
    Study(tmp_path / "a.json", bundle, dataset, {"a": str(weights)}).run([ONE], Sampler(), _score)
    with pytest.raises(DatasetError, match=names + " differ"):
        Study(tmp_path / "a.json", bundle.with_overrides(changes), dataset, {"a": str(weights)})


def test_each_image_is_encoded_once_for_all_settings(
    bundle: Bundle, dataset: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[torch.Tensor] = []
    encode = SegDiffUNet.encode_image

    def spy(self: SegDiffUNet, image: torch.Tensor) -> torch.Tensor:
        encoded.append(image)
        return encode(self, image)

    monkeypatch.setattr(SegDiffUNet, "encode_image", spy)
    study = Study(tmp_path / "a.json", bundle, dataset, {"a": str(weights)}, num_images=2)
    study.run([ONE, Setting(2, 2), Setting(1, 2)], SegDiffInferer.generations, _score)
    windows = 4
    assert len(encoded) == 2 * windows
    # Not kept beyond an image.
    bundle.inferer()(study.items[1].image[None], study.arms[0].network)
    assert len(encoded) == 3 * windows
