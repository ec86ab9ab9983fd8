# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.quality_image import QualityImage
from benchmarks.quality_scores import quality_scores
from benchmarks.quality_table import PUBLISHED, format_quality, summarize_quality
from monai_segdiff import bootstrap_interval, paired_bootstrap


def _images(shift: float, count: int = 3) -> list[dict[str, Any]]:
    """Scores of images of different sizes."""
    found = []
    for number in range(count):
        generator = torch.Generator().manual_seed(number)
        truth = torch.zeros(1, 16 + 4 * number, 20)
        truth[0, 4:10, 4 : 10 + 2 * number] = 1
        noise = torch.rand(truth.shape, generator=generator)
        probability = (0.25 * truth + shift + 0.5 * noise).clamp(0, 1)
        scores = quality_scores(probability, QualityImage(truth.expand(3, -1, -1), truth > 0, truth))
        found.append({"name": str(number), "seconds": [0.5, 4.0, 1.0][number], **scores})
    return found


def test_summary_against_definitions() -> None:
    images, baseline = _images(0.1), _images(0.2)
    summary = summarize_quality(images, baseline)
    for score in ("dice", "iou", "aji", "pq", "auroc"):
        values = [image[score] for image in images]
        assert summary[score] == {"value": pytest.approx(np.mean(values)), "interval": bootstrap_interval(values)}
    tp, fp, fn = np.sum([image["overlap"] for image in images], axis=0)
    pooled = {name: summary[f"pooled_{name}"] for name in ("dice", "iou")}
    assert pooled["dice"]["value"] == pytest.approx(2 * tp / (2 * tp + fp + fn))
    assert pooled["iou"]["value"] == pytest.approx(tp / (tp + fp + fn))
    assert pooled["dice"]["value"] != pytest.approx(summary["dice"]["value"], abs=1e-5)
    for name, result in pooled.items():
        assert result["interval"] == bootstrap_interval([image["overlap"] for image in images], name)
    expected = paired_bootstrap([image["dice"] for image in images], [image["dice"] for image in baseline])
    assert summary["dice_less_baseline"] == {
        "value": expected.difference,
        "interval": expected.interval,
        "share_not_above": expected.share_not_above,
    }
    pixels = [image["pixels"] for image in images]
    brier = np.average([image["brier_score"] for image in images], weights=pixels)
    assert summary["brier_score"] == pytest.approx(brier)
    assert 0 < summary["expected_calibration_error"] < 1
    assert summary["seconds"] == 1
    assert summary["images"] == images
    assert summarize_quality(images, None)["dice_less_baseline"] is None


def test_undefined_scores_are_left_out_of_the_mean() -> None:
    first, second, third = _images(0.1)
    summary = summarize_quality([{**first, "auroc": None}, second, third], None)
    assert summary["auroc"]["value"] == pytest.approx((second["auroc"] + third["auroc"]) / 2)
    undefined = summarize_quality([{**first, "auroc": None}], None)
    assert undefined["auroc"] == {"value": None, "interval": None}


def test_other_images_are_refused() -> None:
    images = _images(0.1)
    with pytest.raises(ValueError, match="the baseline has other images than the row"):
        summarize_quality(images, images[::-1])


def _row(name: str, **changes: Any) -> dict[str, Any]:
    facts = {
        **{"bundle": "monuseg", "parameters": 1234567, "num_inference_steps": 1, "num_generations": 8, "flips": False},
        **{"image_scale": 0.5, "seed": 3, "weights_sha256": "a" * 64, "split_sha256": "b" * 64},
    }
    whole = {"value": 0.5, "interval": (0.25, 0.75)}
    scores: dict[str, Any] = dict.fromkeys(("dice", "iou", "aji", "pq", "auroc"), whole)
    scores |= {"pooled_dice": {"value": 0.625, "interval": None}, "pooled_iou": {"value": 0.375, "interval": None}}
    numbers = {"expected_calibration_error": 0.03125, "brier_score": 0.0625, "seconds": 1.25}
    return {"name": name, **facts, **scores, **numbers, "dice_less_baseline": None, **changes}


def _report(*rows: dict[str, Any]) -> dict[str, Any]:
    images = [
        {"name": "a", "label": "a.xml", "label_sha256": "1", "instances": "a.xml", "instances_sha256": "1"},
        {"name": "b", "label": "b.png", "label_sha256": "2", "instances": "b.TIF", "instances_sha256": "3"},
        {"name": "c", "label": "c.png", "label_sha256": "4", "instances": "c.tif", "instances_sha256": "5"},
    ]
    machine = {"size": 512, "device": "cpu", "name": "some processor", "threads": 2, "torch": "2.9"}
    protocol = {**machine, "training_images_left_out": 4, "images": images}
    return {"protocol": protocol, "baseline": "U-Net", "rows": list(rows), "published": list(PUBLISHED)}


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split(" | ")]


def test_the_tables() -> None:
    other = {"value": 0.125, "interval": (-0.25, 0.5), "share_not_above": 0.25}
    rows = _row("U-Net"), _row("a|b", dice_less_baseline=other, flips=True, auroc={"value": None, "interval": None})
    header, scores, footer, note, facts = format_quality(_report(*rows)).strip().split("\n\n")
    lines = [_cells(line) for line in scores.splitlines()]
    assert len({len(line) for line in lines}) == 1
    whole = "0.5000 (0.2500..0.7500)"
    assert lines[0][:4] == ["row", "Dice", "Dice less U-Net", "IoU"]
    tail = [whole, "0.6250", "0.3750", whole, whole, "0.0312", "0.0625"]
    assert lines[2] == ["U-Net", whole, "-", *tail, whole, "1.25"]
    assert lines[3] == ["a\\|b", whole, "+0.1250 (-0.2500..+0.5000)", *tail, "-", "1.25"]
    published = [["U-Net", "0.794", "0.660"], ["MedT", "0.796", "0.662"], ["SegDiff", "0.816", "0.690"]]
    for line, (name, dice, iou) in zip(lines[4:], published, strict=True):
        assert line == [f"{name}, published *", f"about {dice}", "-", f"about {iou}", *["-"] * 8]
    assert "14 test images" in note
    assert "Differences from U-Net are paired" in footer
    made = [_cells(line) for line in facts.splitlines()]
    short = ["`aaaaaaaaaaaa`", "`bbbbbbbbbbbb`"]
    assert made[2] == ["U-Net", "monuseg", "1,234,567", "1", "8", "no", "0.5", "3", *short]
    assert made[3][:6] == ["a\\|b", "monuseg", "1,234,567", "1", "8", "yes"]
    assert header.startswith(
        f"3 images; 4 others trained one of the networks and were left out (split files, SHA-256: {'b' * 64})."
    )
    masks, objects = (hashlib.sha256(text.encode()).hexdigest() for text in ("124", "135"))
    assert f"Masks: 2 pictures (png), 1 Aperio XML, outlines filled, SHA-256 of their SHA-256 {masks}." in header
    assert f"Objects: 2 pictures (tif), 1 Aperio XML, outlines filled, SHA-256 of their SHA-256 {objects}." in header
    assert "scored at 512x512" in header
    assert header.endswith("Hardware: some processor, cpu, 2 thread(s), PyTorch 2.9.")
    assert "not known" not in header


def test_an_unknown_split_is_said() -> None:
    text = format_quality(_report(_row("U-Net"), _row("other", split_sha256=None)))
    assert f"SHA-256: {'b' * 64}). **What trained other is not known.**" in text
    assert "| unknown |" in text.splitlines()[-1]
    assert "(split files, SHA-256: none)" in format_quality(_report(_row("U-Net", split_sha256=None)))
