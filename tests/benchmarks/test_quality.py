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
from scipy import ndimage

from benchmarks import quality as module
from benchmarks.bundle import MONUSEG
from benchmarks.quality import DEFAULT_ROWS, main, quality
from benchmarks.quality_image import QualityImage
from benchmarks.quality_row import QualityRow
from benchmarks.quality_scores import quality_scores
from benchmarks.quality_table import PUBLISHED, format_quality, summarize_quality
from monai_segdiff import generate_sample_dataset
from monai_segdiff.exceptions import DatasetError

SIZE = 64


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three images of one window, with their objects numbered."""
    root = generate_sample_dataset(tmp_path_factory.mktemp("objects"), num_images=3, image_size=SIZE)
    (root / "instances").mkdir()
    for path in (root / "labels").iterdir():
        numbered, _ = ndimage.label(np.asarray(Image.open(path)))
        Image.fromarray(numbered.astype(np.uint16)).save(root / "instances" / f"{path.stem}.tif")
    return root


@pytest.fixture(scope="module")
def rows(tiny: dict[str, Any], weights: Path) -> list[QualityRow]:
    settings = {**tiny, "ckpt": str(weights)}
    changes: dict[str, dict[str, Any]] = {"low": {"threshold": 0.4}, "U-Net": {"seed": 1}, "ours": {}}
    return [QualityRow(name, MONUSEG, {**settings, **change}) for name, change in changes.items()]


def entries(root: Path) -> list[dict[str, str]]:
    found = []
    for name in ("sample_000", "sample_001", "sample_002"):
        paths = {"image": f"images/{name}.png", "label": f"labels/{name}.png", "instances": f"instances/{name}.tif"}
        found.append({"name": name, **{key: str(root / path) for key, path in paths.items()}})
    return found


@pytest.fixture
def segmented(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Names of the rows and images that are segmented."""
    calls: list[tuple[str, str]] = []
    segment = QualityRow.segment

    def noted(self: QualityRow, entry: dict[str, str], size: int) -> tuple[torch.Tensor, float]:
        calls.append((self.name, entry["name"]))
        return segment(self, entry, size)

    monkeypatch.setattr(QualityRow, "segment", noted)
    return calls


def test_every_row_on_every_image(rows: list[QualityRow], objects: Path, tmp_path: Path) -> None:
    report = quality(rows, objects, tmp_path, size=SIZE)
    expected: dict[str, list[dict[str, Any]]] = {}
    for row, line in zip(rows, report["rows"], strict=True):
        expected[row.name] = []
        for entry, image in zip(entries(objects), line["images"], strict=True):
            truth = QualityImage.load(row.bundle, entry, SIZE)
            scores = quality_scores(row.segment(entry, SIZE)[0], truth, 0.4 if row.name == "low" else 0.5)
            expected[row.name].append({"name": entry["name"], "seconds": image["seconds"], **scores})
            assert image["seconds"] > 0
    for row, line in zip(rows, report["rows"], strict=True):
        baseline = None if row.name == "U-Net" else expected["U-Net"]
        assert line == {"name": row.name, **row.facts, **summarize_quality(expected[row.name], baseline)}
    assert len({line["dice"]["value"] for line in report["rows"]}) == 3
    assert report["published"] == list(PUBLISHED)
    assert report["baseline"] == "U-Net"
    protocol = report["protocol"]
    assert (protocol["size"], protocol["device"], protocol["threads"]) == (SIZE, "cpu", torch.get_num_threads())
    assert protocol["training_images_left_out"] == 0
    assert [image["label"] for image in protocol["images"]] == [f"sample_00{n}.png" for n in range(3)]
    assert json.loads((tmp_path / "quality.json").read_text()) == json.loads(json.dumps(report))
    assert (tmp_path / "quality.md").read_text() == format_quality(report)
    with Image.open(tmp_path / "quality.png") as picture:
        assert picture.size[0] > 2 * picture.size[1]


def test_the_first_row_is_drawn(
    rows: list[QualityRow], objects: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(module, "draw_quality", lambda path, panels: drawn.extend([path, *panels]))
    images = quality(rows[:2], objects, tmp_path, size=SIZE)["rows"][0]["images"]
    order = sorted(range(3), key=lambda index: -images[index]["dice"])
    assert drawn.pop(0) == tmp_path / "quality.png"
    for index, called, (title, image, mask) in zip(order, ("best", "median", "worst"), drawn, strict=True):
        entry = entries(objects)[index]
        assert title == f"{called}: {entry['name']}\nDice {images[index]['dice']:.4f}"
        assert torch.equal(image.truth, QualityImage.load(rows[0].bundle, entry, SIZE).truth)
        assert torch.equal(mask, rows[0].segment(entry, SIZE)[0] > 0.4)


def test_a_run_goes_on_where_it_ended(
    rows: list[QualityRow],
    objects: Path,
    tmp_path: Path,
    segmented: list[tuple[str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = [(row.name, entry["name"]) for row in rows for entry in entries(objects)]
    noted = QualityRow.segment

    def killed(*args: Any) -> tuple[torch.Tensor, float]:
        if len(segmented) == 4:
            raise KeyboardInterrupt
        return noted(*args)

    with monkeypatch.context() as patch:
        patch.setattr(QualityRow, "segment", killed)
        with pytest.raises(KeyboardInterrupt):
            quality(rows, objects, tmp_path, size=SIZE)
    assert not (tmp_path / "quality.json").exists()
    report = quality(rows, objects, tmp_path, size=SIZE)
    assert segmented[: len(whole)] == whole
    # The three that are drawn come once more.
    assert {name for name, _ in segmented[len(whole) :]} == {"low"}
    assert len(segmented) == len(whole) + 3
    again = quality(rows, objects, tmp_path, size=SIZE)
    assert json.dumps(again) == json.dumps(report)
    assert len(segmented) == len(whole) + 6
    # Another truth, another result.
    copied = tmp_path / "copy"
    shutil.copytree(objects, copied)
    shutil.copy(copied / "instances" / "sample_000.tif", copied / "instances" / "sample_002.tif")
    segmented.clear()
    changed = quality(rows[1:2], copied, tmp_path, size=SIZE)["rows"][0]
    assert segmented[0] == ("U-Net", "sample_002")
    assert len(segmented) == 4
    assert changed["dice"] == again["rows"][1]["dice"]
    assert changed["aji"] != again["rows"][1]["aji"]
    with pytest.raises(DatasetError, match=r"another protocol, \['size'\] differ"):
        quality(rows, objects, tmp_path, size=48)


def test_training_images_are_left_out(
    tiny: dict[str, Any], rows: list[QualityRow], weights: Path, objects: Path, tmp_path: Path
) -> None:
    shutil.copy(weights, tmp_path / "model.pt")
    row = QualityRow("U-Net", MONUSEG, {**tiny, "ckpt": str(tmp_path / "model.pt"), "seed": 2})
    trained = [{key: entry[key] for key in ("name", "image", "label")} for entry in entries(objects)]
    row.split.write_text(json.dumps({"training": trained[1:2], "validation": trained[:1]}))
    report = quality([rows[0], row], objects, tmp_path / "out", size=SIZE, num_images=2)
    assert [[image["name"] for image in line["images"]] for line in report["rows"]] == [
        ["sample_000", "sample_002"]
    ] * 2
    assert report["protocol"]["training_images_left_out"] == 1
    # Known by their contents, whatever their names.
    hashes = [image["image_sha256"] for image in report["protocol"]["images"]]
    row.split.write_text(json.dumps({"training": trained[1:2], "validation": trained[:1], "training_sha256": hashes}))
    report = quality([rows[0], row], objects, tmp_path / "out", size=SIZE)
    assert [image["name"] for image in report["protocol"]["images"]] == ["sample_001"]
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(weights, other / "model.pt")
    another = QualityRow("a", MONUSEG, {**tiny, "ckpt": str(other / "model.pt")})
    another.split.write_text(json.dumps({"training": trained[1:2], "validation": trained[:1]}))
    with pytest.raises(DatasetError, match="each image trained one of the networks"):
        quality([row, another], objects, tmp_path / "out", size=SIZE)


def test_a_missing_baseline_is_refused(rows: list[QualityRow], objects: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"baseline is 'none', expected one of \['low', 'U-Net', 'ours'\]"):
        quality(rows, objects, tmp_path, "none", size=SIZE)


def test_objects_are_needed(rows: list[QualityRow], dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no instances for 3 of 3 images"):
        quality(rows, dataset, tmp_path, size=SIZE)
    assert list(tmp_path.iterdir()) == []


def _words(objects: Path, weights: Path, output_dir: Path, words: list[str]) -> list[str]:
    """All default rows replaced, and one more."""
    more = [*((name, [f"seed={seed}"]) for seed, name in enumerate(DEFAULT_ROWS)), ("x, flips", ["flips=true"])]
    settings = [
        word
        for name, changes in more
        for word in (
            "--row",
            f"{name}={MONUSEG}",
            f"ckpt={weights}",
            *(w for w in words[1:] if "device" not in w),
            *changes,
        )
    ]
    return ["--dataset_dir", str(objects), "--output_dir", str(output_dir), "--device", "cpu", *settings]


def test_command(
    objects: Path, weights: Path, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([*_words(objects, weights, tmp_path, words), "--num_images", "1", "--baseline", "DDPS at 512"])
    printed = capsys.readouterr().out
    assert printed.startswith((tmp_path / "quality.md").read_text())
    assert printed.endswith(f"Also in {tmp_path}.\n")
    report = json.loads((tmp_path / "quality.json").read_text())
    assert report["protocol"]["size"] == 512
    seen = [(row["name"], row["seed"], row["flips"]) for row in report["rows"]]
    assert seen == [*((name, seed, False) for seed, name in enumerate(DEFAULT_ROWS)), ("x, flips", 0, True)]
    assert [row["name"] for row in report["rows"] if row["dice_less_baseline"] is None] == ["DDPS at 512"]


def test_default_rows() -> None:
    made = {name: QualityRow(name, folder, settings).facts for name, (folder, settings) in DEFAULT_ROWS.items()}
    ddps = [name for name, facts in made.items() if facts["bundle"] == "monuseg_ddps"]
    assert ddps == [name for name in made if name.startswith("DDPS") or name == "U-Net at 512"]
    assert {facts["num_inference_steps"] for name, facts in made.items() if name.startswith("U-Net")} == {0}
    assert {facts["image_scale"] for name, facts in made.items() if "512" in name} == {0.512}
    assert {facts["image_scale"] for name, facts in made.items() if "512" not in name} == {1.0}
    assert made["U-Net at 512"]["parameters"] < made["DDPS at 512"]["parameters"]
    assert len({facts["split_sha256"] for facts in made.values()}) == 1


@pytest.mark.parametrize(
    ("extra", "code", "message"),
    [
        (["--row", "SegDiff=nowhere"], 2, "--row: the same name is given twice"),
        (["--row", "a"], 2, "'a' is not of the form NAME=VALUE"),
        (["--row", "a=nowhere"], 1, "Row a: "),
        (["--row", f"a={MONUSEG}", "steps=3"], 1, "Unknown override steps"),
        (["--row", f"a={MONUSEG}", "device=cuda"], 2, "--row a: all rows are computed on one device, give --device"),
        (["--baseline", "none"], 2, "--baseline: there is no row 'none', only SegDiff, U-Net, SegDiff at 512"),
        (["--dataset_dir", "nowhere"], 1, "DatasetError: "),
        (["--num_images", "0"], 2, "'0' is not a whole number of at least 1"),
    ],
)
def test_bad_command_lines(
    objects: Path,
    weights: Path,
    words: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    extra: list[str],
    code: int,
    message: str,
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([*_words(objects, weights, tmp_path / "out", words), *extra])
    assert stopped.value.code == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
