# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import logging
import pickle
from pathlib import Path

import numpy as np
import pytest
from matplotlib.path import Path as Outline
from monai.data import DataLoader, Dataset
from monai.transforms import Compose, EnsureChannelFirstd, LoadImage, LoadImaged
from PIL import Image

from monai_segdiff.data import AperioReader, MaskReader, RGBReader
from monai_segdiff.exceptions import AnnotationError

WIDTH, HEIGHT = 60, 40
TRAIN = Path(__file__).parents[2].parent / "shared" / "data" / "monuseg" / "train"


def box(x0: float, y0: float, x1: float, y1: float) -> list[tuple[float, float]]:
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]


def aperio(*regions: list[tuple], attributes: str = "") -> str:
    text = "".join(
        f"<Region {attributes}><Vertices>"
        + "".join(f'<Vertex X="{x}" Y="{y}" Z="0"/>' for x, y in region)
        + "</Vertices></Region>"
        for region in regions
    )
    return f'<Annotations MicronsPerPixel="0.25"><Annotation><Regions>{text}</Regions></Annotation></Annotations>'


def mask_of(path: Path, **kwargs) -> np.ndarray:
    reader = AperioReader(**{"image_size": (WIDTH, HEIGHT), **kwargs})
    return reader.get_data(reader.read(path))[0]


@pytest.fixture
def write(tmp_path):
    def inner(content: str | bytes, name: str = "a.xml") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return inner


@pytest.fixture
def picture(tmp_path):
    def inner(name: str, size: tuple[int, int] = (WIDTH, HEIGHT)) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (200, 100, 150)).save(path)
        return path

    return inner


def test_rectangle_by_hand(write):
    path = write(aperio(box(10, 5, 20, 8)))
    expected = np.zeros((WIDTH, HEIGHT), np.uint8)
    expected[10:21, 5:9] = 1
    found = mask_of(path)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(mask_of(path, reverse_indexing=False), expected.T)


def test_polygon_equals_points_in_polygon(write):
    rng = np.random.default_rng(3)
    theta = np.sort(rng.uniform(0, 2 * np.pi, 17))
    radius = rng.uniform(8, 22, 17)
    # a constant off the pixel grid, so that no pixel centre lies on the outline itself
    xy = np.stack([25.123 + radius * np.cos(theta), 19.457 + radius * np.sin(theta)], axis=1)
    x, y = np.mgrid[:WIDTH, :HEIGHT]
    inside = Outline(xy).contains_points(np.stack([x.ravel(), y.ravel()], axis=1)).reshape(WIDTH, HEIGHT)
    assert 300 < inside.sum() < inside.size
    np.testing.assert_array_equal(mask_of(write(aperio([tuple(p) for p in xy]))), inside)


@pytest.mark.parametrize("second_first", [False, True])
def test_instances_overwrite_in_file_order(write, second_first):
    boxes = [box(5, 5, 20, 20), box(15, 10, 30, 30)]
    if second_first:
        boxes.reverse()
    found = mask_of(write(aperio(*boxes)), mode="instance")
    assert found.dtype == np.int32
    expected = np.zeros((WIDTH, HEIGHT), np.int32)
    for number, ((x0, y0), _, (x1, y1), _) in enumerate(boxes, start=1):
        expected[x0 : x1 + 1, y0 : y1 + 1] = number
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(mask_of(write(aperio(*boxes))), expected > 0)


def test_several_annotation_layers_and_negative_regions_are_filled(write):
    layer = aperio(box(1, 1, 4, 4)).removeprefix('<Annotations MicronsPerPixel="0.25">').removesuffix("</Annotations>")
    other = layer.replace('"4"', '"9"').replace("<Region ", '<Region NegativeROA="1" ')
    assert mask_of(write(f"<Annotations>{layer}{other}</Annotations>")).sum() == 81


def test_polygon_partly_outside_is_clipped(write):
    found = mask_of(write(aperio(box(-10.5, -3, 4, 2), box(WIDTH - 2, HEIGHT - 3, WIDTH + 9, HEIGHT + 9))))
    expected = np.zeros((WIDTH, HEIGHT), np.uint8)
    expected[:5, :3] = 1
    expected[-2:, -3:] = 1
    np.testing.assert_array_equal(found, expected)


def test_stray_clicks_are_left_out_with_a_warning(write, caplog):
    path = write(aperio([(3, 3), (4, 4)], box(10, 5, 20, 8), []))
    with caplog.at_level(logging.WARNING):
        found = mask_of(path, mode="instance")
    assert set(np.unique(found)) == {0, 1}
    assert str(path) in caplog.text
    assert "1, 3" in caplog.text


BAD = {
    "empty file": ("", "empty"),
    "blank file": ("  \n", "empty"),
    "truncated": (aperio(box(1, 1, 5, 5))[:-20], "malformed XML"),
    "not xml": ("hello", "malformed XML"),
    "binary": (b"\x89PNG\r\n\x1a\n\x00\x00", "malformed XML"),
    "unknown encoding": ('<?xml version="1.0" encoding="nonsense"?><Annotations/>', "malformed XML"),
    "other root": ("<svg><Region/></svg>", "<svg>"),
    "no regions": ("<Annotations><Annotation><Regions/></Annotation></Annotations>", "no region"),
    "only stray clicks": (aperio([(1, 1), (2, 2)]), "3 vertices"),
    "not a number": (aperio([(1, 1), ("x", 2), (3, 9)]), "X='x'"),
    "nan": (aperio([(1, 1), ("nan", 2), (3, 9)]), "vertex 2 of region 1"),
    "infinite": (aperio(box(1, 1, 5, 5), [(1, 1), ("inf", 2), (3, 9)]), "vertex 2 of region 2"),
    "overflow": (aperio([(1, 1), ("1e300", 2), (3, 9)]), "finite"),
    "no attribute": (aperio(box(1, 1, 5, 5)).replace('Y="5"', "", 1), "Y=None"),
    "outside right": (aperio(box(WIDTH, 1, WIDTH + 5, 5)), "region 1 lies at x 60..65"),
    "outside below": (aperio(box(1, HEIGHT, 5, HEIGHT + 5)), "60 x 40"),
    "outside left": (aperio(box(1, 1, 3, 3), box(-9, 1, -1, 5)), "region 2"),
    "entities": ('<!DOCTYPE a [<!ENTITY b "c">]><Annotations>&b;</Annotations>', "document type"),
    "entities in utf-16": ('<!DOCTYPE a [<!ENTITY b "c">]><Annotations/>'.encode("utf-16"), "document type"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_file_is_named(write, case):
    content, message = BAD[case]
    path = write(content)
    with pytest.raises(AnnotationError) as caught:
        mask_of(path)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)
    # LoadImage must neither hide the error nor let another reader take the file
    with pytest.raises(AnnotationError, match="a.xml"):
        LoadImage(reader=[MaskReader(), AperioReader(image_size=(WIDTH, HEIGHT))])(path)


def test_missing_file_and_wrong_arguments(tmp_path):
    with pytest.raises(AnnotationError, match="gone.xml"):
        mask_of(tmp_path / "gone.xml")
    with pytest.raises(AnnotationError, match="2 annotation files"):
        AperioReader().read(["a.xml", "b.xml"])
    with pytest.raises(AnnotationError, match="ending in .xml"):
        AperioReader().read("a.png")
    with pytest.raises(ValueError, match="mode"):
        AperioReader(mode="both")
    for size in [(3,), (0, 4), (2.5, 3)]:
        with pytest.raises(ValueError, match="image_size"):
            AperioReader(image_size=size)


def test_verify_suffix():
    assert AperioReader().verify_suffix("a.XML")
    assert AperioReader().verify_suffix(["a.xml", Path("b.xml")])
    assert not AperioReader().verify_suffix(["a.xml", "b.png"])
    assert not AperioReader().verify_suffix("a.xml.png")


@pytest.mark.parametrize(
    ("xml", "image"),
    [
        ("a.xml", "a.TIF"),
        ("set/Annotations/a.xml", "set/Tissue Images/a.tif"),
        ("set/Annotations/a.xml", "set/Tissue_Images/a.tiff"),
        ("set/annotations/a.xml", "set/images/a.JPG"),
        ("set/labels/a.b.xml", "set/images/a.b.png"),
    ],
)
def test_image_size_from_the_image(write, picture, xml, image):
    path = write(aperio(box(10, 5, 20, 8)), xml)
    picture(image)
    assert mask_of(path, image_size=None).shape == (WIDTH, HEIGHT)


def test_image_size_unknown_ambiguous_or_damaged(write, picture, tmp_path):
    path = write(aperio(box(10, 5, 20, 8)), "set/Annotations/a.xml")
    picture("set/Tissue Images/ab.png")
    with pytest.raises(AnnotationError, match=r"a\.xml: the size of its image is unknown"):
        mask_of(path, image_size=None)
    picture("set/Tissue Images/a.png")
    picture("set/images/a.png", (HEIGHT, WIDTH))
    with pytest.raises(AnnotationError, match="different sizes"):
        mask_of(path, image_size=None)
    (tmp_path / "set/images/a.png").write_bytes(b"")
    with pytest.raises(AnnotationError, match="cannot read the size"):
        mask_of(path, image_size=None)


@pytest.mark.parametrize(
    "readers",
    [
        AperioReader(),
        [AperioReader(), "PILReader"],
        ["PILReader", AperioReader()],
        [MaskReader(), AperioReader()],
        [AperioReader(), MaskReader()],
    ],
    ids=["aperio", "aperio-pil", "pil-aperio", "mask-aperio", "aperio-mask"],
)
def test_list_of_xml_and_png_labels(write, picture, tmp_path, readers):
    xml = write(aperio(box(10, 5, 20, 8)), "annotations/a.xml")
    files = [{"image": picture("images/a.png"), "label": xml}]
    drawn = np.zeros((HEIGHT, WIDTH), np.uint8)
    drawn[5:9, 10:21] = 1
    Image.fromarray(drawn).save(tmp_path / "annotations/b.png")
    files.append({"image": picture("images/b.tif"), "label": tmp_path / "annotations/b.png"})
    transform = Compose(
        [
            LoadImaged(keys="image", reader=RGBReader()),
            LoadImaged(keys="label", reader=readers),
            EnsureChannelFirstd(keys=["image", "label"]),
        ]
    )
    transform = pickle.loads(pickle.dumps(transform))  # as worker processes get it
    batch = next(iter(DataLoader(Dataset(files, transform), batch_size=2)))
    assert batch["image"].shape == (2, 3, WIDTH, HEIGHT)
    assert batch["label"].shape == (2, 1, WIDTH, HEIGHT)
    for label in batch["label"]:
        np.testing.assert_array_equal(label[0].numpy(), drawn.T)
    loaded = transform(files[0])
    assert loaded["label"].affine.tolist() == loaded["image"].affine.tolist()
    assert loaded["label"].meta["spatial_shape"].tolist() == [WIDTH, HEIGHT]
    assert loaded["label"].meta["filename_or_obj"] == str(xml)


def test_real_annotations_give_the_published_labels():
    if not TRAIN.is_dir():
        pytest.skip(f"{TRAIN} not present")
    files = sorted((TRAIN / "annotations").glob("*.xml"))
    assert len(files) == 13
    for path in files:
        found = mask_of(path, image_size=None, reverse_indexing=False) > 0
        published = np.asarray(Image.open(TRAIN / "labels" / f"{path.stem}.png")) > 0
        dice = 2 * (found & published).sum() / (found.sum() + published.sum())
        assert dice >= 0.99, path.name
