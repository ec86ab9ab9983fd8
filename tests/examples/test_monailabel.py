# SPDX-License-Identifier: Apache-2.0
"""Real servers of MONAI Label, as examples/monailabel/serve.sh starts them, called through REST.

Marked with ``environments``: the environment is that of ``MONAILABEL_ENV``, or a new one. The reference of every mask
is what was drawn into the picture, so that a transposed, shifted or random one fails.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import tifffile
import torch
from monai.bundle import ConfigParser
from PIL import Image
from skimage.draw import polygon

from monai_segdiff.data import generate_hippocampus_sample, generate_sample_dataset
from monai_segdiff.handlers.strict_checkpoint_loader import load_weights

sys.path.insert(0, str(Path(__file__).parent))
from label_server import LabelServer, free_port  # noqa: E402

pytestmark = [pytest.mark.end_to_end, pytest.mark.environments]

ROOT = Path(__file__).parents[2]
SERVE = ROOT / "examples" / "monailabel" / "serve.sh"
HEIGHT, WIDTH = 160, 240
# A small part of what the released recipe does.
SHORT = {"warmup_iterations": 0, "crop_size": 64, "crops_per_image": 2, "val_interval": 5, "learning_rate": 0.0005}


def dice(first: np.ndarray, second: np.ndarray) -> float:
    assert first.shape == second.shape
    return float(2 * (first & second).sum() / (first.sum() + second.sum()))


def copied(bundle: str, folder: Path) -> Path:
    """What a bundle consists of, without runs and results."""
    for part in ("configs", "docs", "models"):
        shutil.copytree(ROOT / "bundles" / bundle / part, folder / bundle / part)
    return folder / bundle


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = os.environ.get("MONAILABEL_ENV") or str(tmp_path_factory.mktemp("environment") / "env")
    work = tmp_path_factory.mktemp("work")
    command = ["bash", str(SERVE), "--install-only", "--env", folder, "--work", str(work), "--python", sys.executable]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    return Path(folder)


def served(environment: Path, studies: Path, folder: Path, *options: str) -> Iterator[LabelServer]:
    port = free_port()
    command = ["bash", str(SERVE), str(studies), "--env", str(environment), "--work", str(folder / "work")]
    server = LabelServer([*command, "--port", str(port), *options], port, folder / "server.log")
    yield server
    server.stop()
    assert server.process.returncode is not None
    with pytest.raises(ProcessLookupError):
        os.killpg(server.process.pid, 0)


# nuclei


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Pictures wider than high with nuclei that lie nowhere near their mirror images, and their masks."""
    sample = generate_sample_dataset(tmp_path_factory.mktemp("sample") / "set", num_images=6)
    found = {}
    for own, number in (("im0", 0), ("im1", 1), ("im2", 2), ("im.3", 3), ("im4", 5)):
        name, part = f"sample_{number:03d}.png", (slice(HEIGHT), slice(WIDTH))
        picture = np.asarray(Image.open(sample / "images" / name).convert("RGB"))[part]
        found[own] = (picture, np.asarray(Image.open(sample / "labels" / name))[part] > 0)
    return found


def write_pictures(truth: dict[str, tuple[np.ndarray, np.ndarray]], folder: Path) -> Path:
    folder.mkdir()
    for name, (picture, _) in truth.items():
        Image.fromarray(picture).save(folder / f"{name}.png")
    return folder


@pytest.fixture(scope="module")
def nuclei(environment: Path, truth: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabelServer]:
    folder = tmp_path_factory.mktemp("nuclei")
    studies = write_pictures(truth, folder / "studies")
    Image.fromarray(truth["im0"][0]).save(studies / "as_tif.tif")
    Image.fromarray(truth["im0"][0]).save(studies / "as_jpg.jpg", quality=95)
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(noise).save(studies / "noise.png")
    bundle = copied("monuseg", folder)
    train = json.loads((bundle / "configs" / "train.json").read_text())
    (bundle / "configs" / "train.json").write_text(json.dumps(train | SHORT))
    yield from served(environment, studies, folder, "--bundle", str(bundle))


def infer(server: LabelServer, model: str, image: str = "", form: dict[str, Any] | None = None) -> np.ndarray:
    query = f"image={image}&output=image" if image else "output=image"
    content, kind = server.call("POST", f"/infer/{model}?{query}", form=form or {"params": {}})
    assert kind == "image/png"
    with Image.open(io.BytesIO(content)) as mask:
        assert mask.mode == "L"
        return np.asarray(mask)


def opened(bundle: str, **changes: Any) -> tuple[ConfigParser, torch.nn.Module]:
    """A bundle's parts in this process, and its network with the released weights."""
    folder = ROOT / "bundles" / bundle
    parser = ConfigParser()
    parser.read_config(str(folder / "configs" / "inference.json"))
    parser.update({"bundle_root": str(folder), "device": "cpu", **changes})
    network = parser.get_parsed_content("network").eval()
    load_weights(network, folder / "models" / "model.pt")
    return parser, network


def expected_probability(image: Path, **changes: Any) -> np.ndarray:
    """What the bundle's parts give for a picture: ``[W, H]`` on the network's grid."""
    parser, network = opened("monuseg", **changes)
    data = parser.get_parsed_content("preprocessing")({"image": str(image)})
    with torch.no_grad():
        return np.asarray(parser.get_parsed_content("inferer")(data["image"][None], network)[0, 0], np.float64)


def test_what_is_served(nuclei: LabelServer) -> None:
    info = nuclei.json("GET", "/info/")
    model = info["models"]["monuseg"]
    assert (model["type"], model["dimension"], model["labels"]) == ("segmentation", 2, {"nuclei": 1})
    options = {name: model["config"][name] for name in ("num_inference_steps", "num_generations", "seed")}
    assert options == {"num_inference_steps": 1, "num_generations": 1, "seed": 0}
    assert set(info["trainers"]) == {"monuseg"}
    assert not {"pretrained", "run_id", "model_filename"} & set(info["trainers"]["monuseg"]["config"])
    assert set(info["strategies"]) == {"random", "first", "uncertainty"}
    assert set(info["scoring"]) == {"monuseg"}


@pytest.mark.parametrize("image", ["im0", "as_tif", "as_jpg"])
def test_masks_of_pictures(nuclei: LabelServer, truth: Any, image: str) -> None:
    mask = infer(nuclei, "monuseg", image)
    assert (mask.shape, mask.dtype) == ((HEIGHT, WIDTH), np.uint8)
    assert set(np.unique(mask)) == {0, 1}
    assert dice(mask == 1, truth["im0"][1]) > 0.85
    for turned in (mask[::-1], mask[:, ::-1], mask[::-1, ::-1]):
        assert dice(turned == 1, truth["im0"][1]) < 0.5, "the reference would not notice it"


def test_an_uploaded_picture(nuclei: LabelServer, truth: Any, tmp_path: Path) -> None:
    Image.fromarray(truth["im2"][0]).save(tmp_path / "other.png")
    mask = infer(nuclei, "monuseg", form={"params": {}, "file": tmp_path / "other.png"})
    assert dice(mask == 1, truth["im2"][1]) > 0.85


def test_options_of_a_request_are_in_force(nuclei: LabelServer, truth: Any, tmp_path: Path) -> None:
    Image.fromarray(truth["im1"][0]).save(tmp_path / "a.png")
    usual = infer(nuclei, "monuseg", "im1")
    options = {"num_inference_steps": 4, "num_generations": 3, "seed": 5}
    other = infer(nuclei, "monuseg", "im1", {"params": options})
    assert not np.array_equal(other, usual)
    assert np.array_equal(infer(nuclei, "monuseg", "im1", {"params": options}), other)
    assert np.array_equal(infer(nuclei, "monuseg", "im1"), usual), "options must not outlive their request"
    # On the network's grid, where nothing but rounding differs between the two environments.
    for found, settings in ((usual, {}), (other, options)):
        small = expected_probability(tmp_path / "a.png", **settings) > 0.5
        resized = np.asarray(Image.fromarray(small.T.astype(np.uint8)).resize((WIDTH, HEIGHT))) == 1
        assert dice(resized, found == 1) > 0.9


def test_wrong_options_are_refused(nuclei: LabelServer) -> None:
    nuclei.call("POST", "/infer/monuseg?image=im0", form={"params": {"num_inference_steps": 0}}, status=500)
    nuclei.must_say("num_inference_steps must lie in 1..100, found 0")


def test_the_most_uncertain_picture_is_next(nuclei: LabelServer) -> None:
    assert nuclei.json("POST", "/scoring/monuseg?run_sync=true", body={"max_samples": 2})["executed"] == 2
    rest = nuclei.json("POST", "/scoring/monuseg?run_sync=true", body={})
    assert rest == {"total": 8, "executed": 6, "skipped": 2, "failed": 0}
    objects = nuclei.json("GET", "/datastore/?output=all")["objects"]
    scores = {name: item["image"]["info"]["monuseg_entropy"] for name, item in objects.items()}
    assert len(scores) == 8
    studies = Path(nuclei.json("POST", "/activelearning/first", body={})["path"]).parent
    for name in ("im.3", "noise"):
        p = expected_probability(studies / f"{name}.png")
        entropy = -(p * np.log(np.clip(p, 1e-300, 1)) + (1 - p) * np.log(np.clip(1 - p, 1e-300, 1))).mean()
        assert scores[name] == pytest.approx(entropy, rel=1e-3)
    order = sorted(scores, key=scores.__getitem__, reverse=True)
    assert order[0] == "noise", "noise looks like nothing that the network knows"
    for name in order[:2]:
        assert nuclei.json("POST", "/activelearning/uncertainty", body={})["id"] == name
        nuclei.json("PUT", f"/datastore/label?image={name}&tag=final", form={"label": studies / "im0.png"})
    for name in order[:2]:
        nuclei.call("DELETE", f"/datastore/label?id={name}&tag=final")


def test_a_round_of_training_makes_the_served_weights_better(nuclei: LabelServer, truth: Any, tmp_path: Path) -> None:
    """Starting from damaged ones. The labels are of both kinds that annotators send: 0/1 and 0/255."""
    for i, name in enumerate(("im0", "im1", "im2", "im.3")):
        label = tmp_path / f"{name}.png"
        Image.fromarray(truth[name][1].astype(np.uint8) * (1, 255)[i % 2]).save(label)
        nuclei.json("PUT", f"/datastore/label?image={name}&tag=final", form={"label": label})
    models = nuclei.log.parent / "work" / "bundle" / "model" / "monuseg" / "models"
    state = torch.load(models / "model.pt")
    generator = torch.Generator().manual_seed(0)
    for value in state.values():
        if value.is_floating_point() and value.ndim > 1:
            value += 0.5 * value.std() * torch.randn(value.shape, generator=generator)
    torch.save(state, models / "model.pt")
    damaged = (models / "model.pt").read_bytes()
    before = dice(infer(nuclei, "monuseg", "im4") == 1, truth["im4"][1])

    nuclei.call("POST", "/train/monuseg", body={"max_epochs": 10, "val_split": 0.25, "device": "cpu"})
    limit = time.monotonic() + 240
    while (task := nuclei.json("GET", "/train/"))["status"] in ("SUBMITTED", "RUNNING"):
        assert time.monotonic() < limit, task
        time.sleep(1)
    assert task["status"] == "DONE", nuclei.tail()
    former = [path for path in models.glob("model-*.pt") if path.read_bytes() == damaged]
    assert len(former) == 1
    assert (models / "model.pt").read_bytes() != damaged
    after = dice(infer(nuclei, "monuseg", "im4") == 1, truth["im4"][1])
    assert after > before + 0.02, "the server must have loaded the new weights"
    split = json.loads((models / "split.json").read_text())
    own = [entry["name"] for entry in split["training"] if entry["name"].startswith("im")]
    judges = [entry["name"] for entry in split["validation"]]
    assert (len(own), len(judges)) == (3, 1)
    assert {*own, *judges} == {"im0", "im1", "im2", "im.3"}

    # From the new weights on, a round that only does harm changes nothing.
    published = (models / "model.pt").read_bytes()
    train = models.parent / "configs" / "train.json"
    train.write_text(json.dumps(json.loads(train.read_text()) | {"learning_rate": 0.05}))
    body = {"max_epochs": 1, "val_split": 0.25, "device": "cpu"}
    task = nuclei.json("POST", "/train/monuseg?run_sync=true", body=body)
    assert (task["published"], task["best_epoch"]) == (False, 0)
    assert (models / "model.pt").read_bytes() == published


@pytest.mark.parametrize(("val_split", "message"), [(0, "val_split is 0, expected"), (-1, "val_split is -1, expected")])
def test_a_round_without_judges_is_refused(nuclei: LabelServer, val_split: int, message: str) -> None:
    nuclei.call("POST", "/train/monuseg?run_sync=true", body={"val_split": val_split}, status=500)
    nuclei.must_say(message)


def test_weights_of_another_layout_are_refused(nuclei: LabelServer) -> None:
    path = nuclei.log.parent / "work" / "bundle" / "model" / "monuseg" / "models" / "model.pt"
    content = path.read_bytes()
    torch.save({f"module.{key}": value for key, value in torch.load(path).items()}, path)
    nuclei.call("POST", "/infer/monuseg?image=im0", form={"params": {}}, status=500)
    nuclei.must_say("Missing key(s) in state_dict")
    path.write_bytes(content)
    infer(nuclei, "monuseg", "im0")


# polygons


def joined(truth: dict[str, tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Two pictures by two, and their mask: 320 x 480 pixels."""
    order = (("im0", "im1"), ("im2", "im.3"))
    return tuple(np.vstack([np.hstack([truth[name][i] for name in row]) for row in order]) for i in (0, 1))


@pytest.fixture(scope="module")
def slides(environment: Path, truth: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabelServer]:
    folder = tmp_path_factory.mktemp("slides")
    studies = write_pictures(truth, folder / "studies")
    tifffile.imwrite(studies / "slide.tif", joined(truth)[0], tile=(128, 128), photometric="rgb")
    yield from served(environment, studies, folder, "--app", "pathology")


def polygons(server: LabelServer, image: str, output: str, **wsi: Any) -> list[np.ndarray]:
    """Corners ``[N, 2]``, x first, by the three formats."""
    form = {"wsi": {"location": [0, 0], "size": [0, 0], "min_poly_area": 20, **wsi}}
    content, _ = server.call("POST", f"/infer/wsi_v2/segdiff_nuclei?image={image}&output={output}", form=form)
    if output == "asap":
        found = ElementTree.fromstring(content).iter("Annotation")
        return [np.array([[float(c.get("X")), float(c.get("Y"))] for c in one.iter("Coordinate")]) for one in found]
    found = json.loads(content)
    if output == "dsa":
        return [np.array(element["points"])[:, :2] for element in found["elements"]]
    elements = [element for one in found["annotations"] for element in one["annotation"]["elements"]]
    assert {element["label"] for element in elements} == {"nuclei"}
    return [np.array(contour) for element in elements for contour in element["contours"]]


def drawn(found: list[np.ndarray], height: int, width: int) -> np.ndarray:
    count = np.zeros((height, width), int)
    for corners in found:
        rows, columns = polygon(corners[:, 1], corners[:, 0], (height, width))
        count[rows, columns] += 1
    assert (count > 1).sum() < 0.02 * (count > 0).sum(), "polygons overlap by more than their rounded corners"
    return count > 0


def test_the_pathology_app_offers_the_model(slides: LabelServer) -> None:
    model = slides.json("GET", "/info/")["models"]["segdiff_nuclei"]
    assert model["pathology"] is True
    assert model["labels"] == {"nuclei": 1}
    assert model["config"]["multi_gpu"] is False


@pytest.mark.parametrize("output", ["asap", "dsa", "json"])
def test_polygons_of_a_picture(slides: LabelServer, truth: Any, output: str) -> None:
    found = polygons(slides, "im0", output)
    assert dice(drawn(found, HEIGHT, WIDTH), truth["im0"][1]) > 0.8


def test_polygons_of_tiles(slides: LabelServer, truth: Any) -> None:
    _, mask = joined(truth)
    whole = polygons(slides, "slide", "asap", tile_size=[256, 192])
    assert dice(drawn(whole, *mask.shape), mask) > 0.8
    part = polygons(slides, "slide", "asap", location=[240, 160], size=[240, 160], tile_size=[240, 160])
    assert min(corners[:, 0].min() for corners in part) >= 240
    assert min(corners[:, 1].min() for corners in part) >= 160
    assert dice(drawn(part, *mask.shape)[160:, 240:], mask[160:, 240:]) > 0.8


def test_touching_nuclei_are_polygons_of_their_own(environment: Path, tmp_path: Path) -> None:
    """Two that meet at a side and one that meets them at a corner, and a hole that is no nucleus."""
    code = """
import sys, json, numpy as np
sys.path.insert(0, sys.argv[1])
from lib.infers.segdiff_nuclei import SeparateTouchingd
from monailabel.transform.post import FindContoursd
instances = np.zeros((1, 40, 60), np.int32)
instances[0, 4:16, 4:20], instances[0, 16:30, 4:20], instances[0, 30:38, 20:40] = 1, 2, 3
instances[0, 20:24, 8:14] = 0
data = SeparateTouchingd(keys="pred")({"pred": instances})
result = FindContoursd(keys="pred", labels={"nuclei": 1}, min_poly_area=20)(data)["result"]
print("POLYGONS", json.dumps([c for e in result["annotation"]["elements"] for c in e["contours"]]))
"""
    shutil.copytree(environment / "monailabel" / "sample-apps" / "pathology", tmp_path / "app")
    shutil.copytree(ROOT / "examples" / "monailabel" / "pathology", tmp_path / "app", dirs_exist_ok=True)
    command = [str(environment / "bin" / "python"), "-c", code, str(tmp_path / "app")]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = [np.array(corners) for corners in json.loads(output.split("POLYGONS")[1])]
    assert len(found) == 3
    boxes = sorted((*corners.min(axis=0).tolist(), *corners.max(axis=0).tolist()) for corners in found)
    for box, expected in zip(boxes, [(4, 4, 14, 19), (16, 4, 29, 19), (30, 20, 37, 39)], strict=True):
        assert np.abs(np.array(box) - expected).max() <= 1


# volumes, in the app that comes with MONAI Label

TURNED = np.array([[1, -1], [0, 1], [2, -1]])  # axes to the back, to the right and downwards


@pytest.fixture(scope="module")
def volumes(environment: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabelServer]:
    folder = tmp_path_factory.mktemp("volumes")
    sample = generate_hippocampus_sample(folder / "sample", num_volumes=3)
    studies, app = folder / "studies", folder / "app"
    studies.mkdir()
    for i in (2, 3):  # with straight axes and with oblique ones
        image = nib.as_closest_canonical(nib.load(sample / "imagesTr" / f"hippocampus_{i:03d}.nii.gz"))
        nib.save(image, folder / f"volume{i}.nii.gz")
        nib.save(image.as_reoriented(TURNED), studies / f"volume{i}.nii.gz")
    shutil.copytree(environment / "monailabel" / "sample-apps" / "monaibundle", app)
    (app / "model").mkdir(exist_ok=True)
    (app / "model" / "hippocampus").symlink_to(copied("hippocampus", folder / "bundles"))
    port = free_port()
    command = [str(environment / "bin" / "python"), "-m", "monailabel.main", "start_server"]
    command += ["--app", str(app), "--studies", str(studies), "--host", "127.0.0.1", "--port", str(port)]
    command += ["--conf", "models", "hippocampus", "--conf", "zoo_source", "ngc", "--conf", "sam2", "false"]
    session = {"MONAI_LABEL_SESSION_PATH": str(folder / "sessions")}
    server = LabelServer(command, port, folder / "server.log", session)
    yield server
    server.stop()


@pytest.mark.parametrize("name", ["volume2", "volume3"])
def test_label_maps_of_volumes(volumes: LabelServer, name: str, tmp_path: Path) -> None:
    """As the bundle segments the same volume with other axes, in this process."""
    assert volumes.json("GET", "/info/")["models"]["hippocampus"]["labels"] == {"anterior": 1, "posterior": 2}
    content, _ = volumes.call("POST", f"/infer/hippocampus?image={name}&output=image", form={"params": {}})
    (tmp_path / "found.nii.gz").write_bytes(content)
    found, folder = nib.load(tmp_path / "found.nii.gz"), volumes.log.parent
    image = nib.load(folder / "studies" / f"{name}.nii.gz")
    assert found.get_data_dtype() == np.uint8
    assert found.shape == image.shape
    assert np.abs(found.affine - image.affine).max() < 1e-3

    upright = folder / f"{name}.nii.gz"
    parser, network = opened("hippocampus")
    data = parser.get_parsed_content("preprocessing")({"image": str(upright)})
    with torch.no_grad():
        data["pred"] = parser.get_parsed_content("inferer")(data["image"][None], network)[0]
    labels = np.asarray(parser.get_parsed_content("post_transforms")(data)["pred"]).astype(np.uint8)
    expected = nib.Nifti1Image(labels, nib.load(upright).affine).as_reoriented(TURNED)
    for number in (1, 2):
        one, other = np.asarray(found.dataobj) == number, np.asarray(expected.dataobj) == number
        assert dice(one, other) > 0.99
        for axis in range(3):
            assert dice(np.flip(one, axis), other) < 0.9, "the reference would not notice it"
