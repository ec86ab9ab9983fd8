# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re
from typing import Any

import pytest

from benchmarks.mask_prior_table import flat_mask_prior, format_mask_prior
from monai_segdiff import paired_bootstrap


def row(arm: str, seconds: float, dice: list[float], surface_dice: list[float | None] | None = None) -> dict[str, Any]:
    """A row whose means have made-up intervals."""
    scores = {"dice": dice} if surface_dice is None else {"dice": dice, "surface_dice": surface_dice}
    images = [{"name": str(i), **{score: values[i] for score, values in scores.items()}} for i in range(len(dice))]
    mean = {}
    for score, values in scores.items():
        defined = [value for value in values if value is not None]
        mean[score] = {"value": sum(defined) / len(defined), "interval": [0.25, 0.875]}
    pooled = {"dice": {"value": 0.1, "interval": None}}
    pooled |= {"expected_calibration_error": {"value": 0.03125, "interval": [0.015625, 0.0625]}}
    return {"arm": arm, "weights": "w", "seconds": seconds, "mean": mean, "pooled": pooled, "images": images}


def three() -> list[dict[str, Any]]:
    return [
        row("base", 0.5, [0.5, 0.25], [0.5, None]),
        row("head, one step", 1.0, [0.75, 0.5], [0.25, 0.75]),
        row("DDPS, 3 steps", 1.75, [0.5, 0.75], [0.75, 0.25]),
    ]


def test_differences_are_paired() -> None:
    base, head, prior = flat_mask_prior(three())
    assert base["dice"] == 0.375
    assert (base["dice_low"], base["dice_high"]) == (0.25, 0.875)
    assert [base[f"pooled_expected_calibration_error{end}"] for end in ("", "_low", "_high")] == [
        *(0.03125, 0.015625, 0.0625)
    ]
    assert [(line["arm"], line["weights"], line["images"]) for line in (base, head, prior)] == [
        *(("base", "w", 2), ("head, one step", "w", 2), ("DDPS, 3 steps", "w", 2))
    ]
    assert [(line["seconds"], line["ratio"]) for line in (base, head, prior)] == [(0.5, 1), (1, 2), (1.75, 3.5)]

    def of(line: dict[str, Any], name: str) -> tuple[float | None, ...]:
        return line[name], line[f"{name}_low"], line[f"{name}_high"]

    # The same in every image, so that the interval has no width.
    assert of(head, "dice_minus_base") == (0.25, 0.25, 0.25)
    assert of(base, "dice_minus_head") == (-0.25, -0.25, -0.25)
    # 0 and 0.5: a quarter of the resamples has twice the one, a quarter twice the other.
    assert of(prior, "dice_minus_base") == (0.25, 0, 0.5)
    assert of(prior, "dice_minus_head") == (0, -0.25, 0.25)
    # The second image does not define the base's: what remains is one image, which has no interval.
    assert of(head, "surface_dice_minus_base") == (-0.25, None, None)
    assert of(prior, "surface_dice_minus_base") == (0.25, None, None)
    assert of(prior, "surface_dice_minus_head") == (0, -0.5, 0.5)
    for line, name in ((base, "base"), (head, "head")):
        assert of(line, f"dice_minus_{name}") == of(line, f"surface_dice_minus_{name}") == (None, None, None)


def test_intervals_are_those_of_the_paired_bootstrap() -> None:
    scores = [0.1, 0.4, 0.9, 0.3], [0.2, 0.3, 1.0, 0.7]
    found = flat_mask_prior([row("base", 1, scores[0]), row("other", 1, scores[1])])[1]
    expected = paired_bootstrap(scores[1], scores[0])
    assert found["dice_minus_base"] == expected.difference == pytest.approx(0.125)
    assert (found["dice_minus_base_low"], found["dice_minus_base_high"]) == expected.interval
    assert expected.interval[0] < 0.125 < expected.interval[1]


def test_nothing_to_compare_in_any_image() -> None:
    rows = [row("base", 1, [0.5, 0.5], [None, 0.5]), row("other", 1, [0.5, 0.5], [0.5, None])]
    assert flat_mask_prior(rows)[1]["surface_dice_minus_base"] is None


def test_what_is_not_there_has_no_column() -> None:
    flat = flat_mask_prior([row("base", 1, [0.5, 0.25]), row("DDPS, 3 steps", 1, [0.5, 0.5])])
    assert not [name for name in flat[0] if "surface" in name or "head" in name]
    assert "surface" not in format_mask_prior(flat)
    assert " - head" not in format_mask_prior(flat)


def test_other_images_are_refused() -> None:
    rows = three()
    rows[2]["images"][1]["name"] = "another"
    with pytest.raises(ValueError, match="have different images, expected the same"):
        flat_mask_prior(rows)


def test_the_tables() -> None:
    lines = [re.split(r"\s{2,}", line) for line in format_mask_prior(flat_mask_prior(three())).splitlines()]
    error = "0.0312 (0.0156..0.0625)"
    assert [lines[0], *lines[2:6]] == [
        ["arm", "Dice", "surface Dice", "ECE, pooled"],
        ["base", "0.3750 (0.2500..0.8750)", "0.5000 (0.2500..0.8750)", error],
        ["head, one step", "0.6250 (0.2500..0.8750)", "0.5000 (0.2500..0.8750)", error],
        ["DDPS, 3 steps", "0.6250 (0.2500..0.8750)", "0.5000 (0.2500..0.8750)", error],
        [""],
    ]
    worse, better = "-0.2500 (-0.2500..-0.2500)", "+0.2500 (+0.2500..+0.2500)"
    wide = "+0.2500 (+0.0000..+0.5000)", "+0.2500 (-)", "+0.0000 (-0.2500..+0.2500)", "+0.0000 (-0.5000..+0.5000)"
    assert [lines[6], *lines[8:]] == [
        [
            *("arm", "Dice - base", "surface Dice - base", "Dice - head", "surface Dice - head"),
            *("Dice - ddps", "surface Dice - ddps", "seconds", "ratio"),
        ],
        ["base", "-", "-", worse, "+0.2500 (-)", "-0.2500 (-0.5000..+0.0000)", "-0.2500 (-)", "0.500", "1.00"],
        ["head, one step", better, "-0.2500 (-)", "-", "-", *wide[2:], "1.000", "2.00"],
        ["DDPS, 3 steps", *wide, "-", "-", "1.750", "3.50"],
    ]
