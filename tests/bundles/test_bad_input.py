# SPDX-License-Identifier: Apache-2.0
"""What goes wrong is said by a typed error that names the file, and nothing is left half-written."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import monai.bundle
import numpy as np
import pytest
import torch
from PIL import Image

from monai_segdiff import SegDiffUNet, check_command_line
from monai_segdiff.exceptions import AnnotationError, CheckpointError, DatasetError, ImageError

SIZE = 128
SQUARE = [(10, 10), (60, 10), (60, 60), (10, 60)]
Change = Callable[[Path], Path]


def aperio(*polygons: list[tuple[float, float]]) -> str:
    regions = ""
    for number, polygon in enumerate(polygons, start=1):
        vertices = "".join(f'<Vertex X="{x}" Y="{y}" Z="0"/>' for x, y in polygon)
        regions += f'<Region Id="{number}"><Vertices>{vertices}</Vertices></Region>'
    return f"<Annotations><Annotation><Regions>{regions}</Regions></Annotation></Annotations>"


@pytest.fixture
def data(bundle, tmp_path: Path) -> Path:
    """Four images with Aperio annotations. Evaluation and training read sample_002."""
    folder = tmp_path / "data"
    (folder / "Annotations").mkdir(parents=True)
    shutil.copytree(bundle.dataset / "images", folder / "images")
    for path in (folder / "images").iterdir():
        (folder / "Annotations" / f"{path.stem}.xml").write_text(aperio(SQUARE))
    return folder


# Each changes the dataset and returns the path that the message must name.


def no_folder(data: Path) -> Path:
    shutil.rmtree(data)
    return data


def empty_folder(data: Path) -> Path:
    shutil.rmtree(data)
    data.mkdir()
    return data


def no_annotation(data: Path) -> Path:
    (data / "Annotations" / "sample_002.xml").unlink()
    return Path("sample_002.png")


def annotation(text: str) -> Change:
    def change(data: Path) -> Path:
        path = data / "Annotations" / "sample_002.xml"
        path.write_text(text)
        return path

    return change


def truncated(data: Path) -> Path:
    path = data / "images" / "sample_002.png"
    path.write_bytes(path.read_bytes()[:2000])
    return path


def no_picture(data: Path) -> Path:
    path = data / "images" / "sample_002.png"
    path.write_text("not a picture")
    return path


def grey_16_bit(data: Path) -> Path:
    path = data / "images" / "sample_002.png"
    Image.fromarray(np.full((SIZE, SIZE), 3000, np.uint16)).save(path)
    return path


def cmyk(data: Path) -> Path:
    (data / "images" / "sample_002.png").unlink()
    path = data / "images" / "sample_002.tif"
    Image.new("CMYK", (SIZE, SIZE)).save(path)
    return path


IMAGES = [
    (truncated, ImageError, "is the file truncated"),
    (no_picture, ImageError, "expected an 8-bit RGB"),
    (grey_16_bit, ImageError, "expected an 8-bit RGB"),
    (cmyk, ImageError, "mode CMYK; expected an 8-bit RGB"),
]
DATASETS = [
    (no_folder, DatasetError, "does not exist; expected 'Tissue Images"),
    (empty_folder, DatasetError, "is empty; expected 'Tissue Images"),
    (no_annotation, DatasetError, "no annotation for 1 of 4 images"),
    (annotation("<Annotations><Annotation>"), AnnotationError, "malformed XML"),
    (annotation(""), AnnotationError, "this file is empty; expected an Aperio XML file"),
    (annotation(aperio()), AnnotationError, "holds no region; expected"),
    (annotation(aperio([(5, 5), (6, 6)])), AnnotationError, "none of the 1 regions has 3 vertices"),
    (
        annotation(aperio(SQUARE, [(500, 500), (600, 500), (600, 600)])),
        AnnotationError,
        "expected it to meet the image",
    ),
    (annotation("<html/>"), AnnotationError, "expected <Annotations>"),
    *IMAGES,
]
ids = [f"{change.__name__}-{i}" for i, (change, _, _) in enumerate(DATASETS)]


def chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def assert_said(raised: BaseException, kind: type[Exception], path: Path, expected: str) -> None:
    found = [error for error in chain(raised) if isinstance(error, kind)]
    assert found, f"no {kind.__name__} among {[type(error).__name__ for error in chain(raised)]}"
    message = str(found[-1])
    assert str(path) in message
    assert expected in message


def assert_nothing_half_written(folder: Path) -> None:
    """No temporary file, no result that cannot be read."""
    if not folder.exists():
        return
    for path in folder.rglob("*"):
        assert not path.name.startswith("."), path
        if path.suffix == ".png":
            with Image.open(path) as picture:
                picture.load()
        elif path.is_file():
            assert path.name == "split.json" or "tfevents" in path.name, path


@pytest.mark.parametrize(("change", "kind", "expected"), DATASETS, ids=ids)
@pytest.mark.parametrize("names", ["train", "train evaluate"])
def test_bad_datasets(
    bundle, data: Path, tmp_path: Path, names: str, change: Change, kind: type[Exception], expected: str
) -> None:
    path = change(data)
    out = tmp_path / "out"
    with pytest.raises(RuntimeError) as caught:
        bundle.run(names, dataset_dir=data, run_dir=out, ckpt=bundle.weights, output_dir=out)
    assert_said(caught.value, kind, path, expected)
    assert_nothing_half_written(out)
    assert not list(out.rglob("*.png"))


@pytest.mark.parametrize(
    ("change", "kind", "expected"),
    [
        (no_folder, DatasetError, "does not exist; expected a folder of images"),
        (empty_folder, DatasetError, "holds no image; expected files with .tif"),
        *IMAGES,
    ],
)
def test_bad_images_for_inference(
    bundle, data: Path, tmp_path: Path, change: Change, kind: type[Exception], expected: str
) -> None:
    path = change(data)
    out = tmp_path / "out"
    with pytest.raises(RuntimeError) as caught:
        bundle.run("inference", dataset_dir=data, ckpt=bundle.weights, output_dir=out)
    assert_said(caught.value, kind, path, expected)
    assert_nothing_half_written(out)
    done = sorted(path.name for path in out.glob("*_mask.png"))
    assert done == ([] if kind is DatasetError else ["sample_000_mask.png", "sample_001_mask.png"])


def other_network(path: Path) -> None:
    network = SegDiffUNet(
        spatial_dims=2,
        image_channels=3,
        mask_channels=1,
        channels=(32, 64),
        attention_levels=(False, False),
        num_res_blocks=1,
        num_rrdb_blocks=1,
    )
    torch.save(network.state_dict(), path)


def damaged(path: Path) -> None:
    other_network(path)
    path.write_bytes(path.read_bytes()[:5000])


def text(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\n")


def nothing(path: Path) -> None:
    pass


@pytest.mark.parametrize("names", ["train evaluate", "inference"])
@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (other_network, "was written for another network than SegDiffUNet as configured"),
        (damaged, "is damaged or not a PyTorch checkpoint"),
        (text, "is damaged or not a PyTorch checkpoint"),
        (nothing, "does not exist"),
    ],
)
def test_bad_checkpoints(bundle, tmp_path: Path, names: str, make: Callable[[Path], None], expected: str) -> None:
    path = tmp_path / "model.pt"
    make(path)
    out = tmp_path / "out"
    with pytest.raises(RuntimeError) as caught:
        bundle.run(names, ckpt=path, output_dir=out)
    assert_said(caught.value, CheckpointError, path, expected)
    assert not out.exists() or not list(out.rglob("*"))


def test_resume_without_a_run(bundle, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError) as caught:
        bundle.run("train", run_dir=tmp_path / "run", resume=True)
    assert_said(caught.value, CheckpointError, tmp_path / "run" / "checkpoint.pt", "Nothing to resume")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (other_network, "is not one of a whole training run"),
        (damaged, "is damaged or not a PyTorch checkpoint"),
    ],
)
def test_resume_from_a_bad_checkpoint(bundle, tmp_path: Path, make: Callable[[Path], None], expected: str) -> None:
    path = tmp_path / "checkpoint.pt"
    make(path)
    before = path.read_bytes()
    with pytest.raises(RuntimeError) as caught:
        bundle.run("train", run_dir=tmp_path, resume=True)
    assert_said(caught.value, CheckpointError, path, expected)
    assert path.read_bytes() == before
    assert not (tmp_path / "model.pt").exists()


def test_resume_of_a_run_of_another_network(bundle, trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "run")
    before = {path: path.read_bytes() for path in (tmp_path / "run").glob("*.pt")}
    with pytest.raises(RuntimeError) as caught:
        bundle.run("train", run_dir=tmp_path / "run", resume=True, max_epochs=3, **{"network_def#num_res_blocks": 2})
    assert_said(caught.value, CheckpointError, tmp_path / "run" / "checkpoint.pt", "was written for another network")
    assert {path: path.read_bytes() for path in (tmp_path / "run").glob("*.pt")} == before


@pytest.mark.parametrize(
    ("run_id", "names", "wrong", "hint"),
    [
        ("training", "train", "max_epoch", "Did you mean --max_epochs?"),
        ("training", "train", "datset_dir", "Did you mean --dataset_dir?"),
        ("training", "train", "network_deff#channels", "Did you mean --network_def?"),
        ("evaluating", "train evaluate", "num_inference_step", "Did you mean --num_inference_steps?"),
        ("inference", "inference", "outputdir", "Did you mean --output_dir?"),
    ],
)
def test_misspelt_overrides(
    bundle, monkeypatch: pytest.MonkeyPatch, run_id: str, names: str, wrong: str, hint: str
) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # which a good command line replaces
    program = str(Path(monai.bundle.__file__).with_name("__main__.py"))
    words = bundle.words(run_id, names)
    check_command_line([program, *words])
    with pytest.raises(KeyError) as caught:
        check_command_line([program, *words, f"--{wrong}", "3"])
    message = caught.value.args[0]
    assert message.startswith(
        f"Unknown override --{wrong}: there is no such entry in {', '.join(bundle.files(names))}."
    )
    assert message.endswith(hint)


@pytest.mark.end_to_end
def test_last_line_says_what_is_wrong(bundle, tmp_path: Path) -> None:
    words = bundle.words("inference", "inference", dataset_dir=tmp_path / "none", ckpt=bundle.weights)
    done = bundle.process(["-m", "monai.bundle", *words, "--output_dir", str(tmp_path / "out")], expect=1)
    last = done.stderr.rstrip().splitlines()[-1]
    assert last.startswith(f"DatasetError: {tmp_path / 'none'}: does not exist; expected a folder of images")
    assert not (tmp_path / "out").exists()
