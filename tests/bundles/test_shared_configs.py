# SPDX-License-Identifier: Apache-2.0
"""What holds for the configs of every bundle, and what the bundles have in common."""

from __future__ import annotations

import ast
import builtins
import hashlib
import importlib
import json
import pydoc
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import monai.bundle
import pytest
from monai.bundle import ConfigParser
from monai.bundle.config_item import ComponentLocator

SCHEMA = Path(__file__).with_name("metadata_schema.json")
BUNDLES = Path(__file__).parents[2] / "bundles"
NAMES = sorted(path.parents[1].name for path in BUNDLES.glob("*/configs/metadata.json"))
FILES = [(name, path.stem) for name in NAMES for path in sorted((BUNDLES / name / "configs").glob("*.json"))]
FILES = [(name, file) for name, file in FILES if file != "metadata"]

# By config files: entries that are not about the data of a bundle, and so are those of bundles/monuseg.
SHARED = {
    "train": """
        imports device seed resume resuming start_processes rank is_not_rank0 num_workers amp amp_kwargs compile
        initial_weights noise_on prediction_share timestep_weights dice_weight bce_weight learning_rate
        warmup_iterations weight_decay max_gradient_norm checkpoint_interval ema_momentum ema_warmup
        num_train_timesteps prediction_type num_inference_steps num_generations window_mode stop_early threshold
        network_def network ema scheduler inferer optimizer lr_schedule normalize
        train#dataset#_target_ train#dataset#data train#dataset#transform train#dataset#progress train#dataloader
        train#inferer train#loss train#handlers train#trainer
        validate#keep_picture validate#dataset#data validate#dataset#transform validate#dataloader validate#inferer
        validate#key_metric validate#handlers validate#evaluator
        initialize#0 initialize#1 initialize#2 initialize#5 training run finalize
    """,
    "train evaluate": """
        ckpt output_dir dataset evaluator handlers uncertainty with_uncertainty temperature
        validate#handlers#0 validate#handlers#1 validate#handlers#2#_target_ validate#handlers#2#output_dir
        validate#handlers#2#scorers#0 validate#handlers#2#scorers#1 validate#handlers#2#scorers#2
        validate#inferer validate#evaluator initialize#0 initialize#1 initialize#2 evaluating run
    """,
    "train multi_gpu_train": """
        start_processes rank device network train#sampler train#dataloader validate#sampler validate#dataloader
    """,
    "train paper": """
        learning_rate weight_decay max_gradient_norm ema_momentum ema_warmup prediction_type noise_on dice_weight
        num_train_timesteps num_inference_steps num_generations scheduler lr_schedule
    """,
    "inference": """
        imports device ckpt output_dir seed num_workers num_train_timesteps prediction_type num_inference_steps
        num_generations window_mode stop_early compile threshold temperature uncertainty with_uncertainty amp
        network_def network scheduler inferer segmentor dataset dataloader scale_temperature resize_to_picture make_mask
        postprocessing post_transforms displayable_configs handlers evaluator initialize inference#1 inference#2 run
    """,
}


def read(bundle: str, *names: str) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config([str(BUNDLES / bundle / "configs" / f"{name}.json") for name in names])
    return parser


def load(bundle: str, name: str) -> Any:
    return json.loads((BUNDLES / bundle / "configs" / f"{name}.json").read_text())


def entries(config: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """All strings of a config, with their places."""
    if isinstance(config, dict):
        for name, value in config.items():
            yield from entries(value, f"{path}#{name}")
    elif isinstance(config, list):
        for i, value in enumerate(config):
            yield from entries(value, f"{path}#{i}")
    elif isinstance(config, str):
        yield path, config


@pytest.mark.parametrize("names", SHARED)
@pytest.mark.parametrize("bundle", [name for name in NAMES if name != "monuseg"])
def test_what_is_not_about_the_data_is_as_in_monuseg(bundle: str, names: str) -> None:
    model, parser = read("monuseg", *names.split()), read(bundle, *names.split())
    for place in SHARED[names].split():
        assert place in model, place
        assert place in parser, place
        assert parser[place] == model[place], place


@pytest.mark.parametrize("bundle", NAMES)
def test_files_of_a_bundle(bundle: str) -> None:
    files = {file for name, file in FILES if name == bundle}
    assert files >= {"train", "evaluate", "inference", "multi_gpu_train", "paper"}
    for path in ("LICENSE", "docs/README.md", "docs/data_license.txt", "configs/logging.conf"):
        assert (BUNDLES / bundle / path).is_file(), path
    logging = "configs/logging.conf"
    assert (BUNDLES / bundle / logging).read_bytes() == (BUNDLES / "monuseg" / logging).read_bytes()
    assert not (BUNDLES / bundle / "scripts").exists()


# metadata


@pytest.mark.parametrize("bundle", NAMES)
def test_metadata_follows_the_specification(bundle: str) -> None:
    digest = hashlib.sha256(SCHEMA.read_bytes()).hexdigest()
    monai.bundle.verify_metadata(
        meta_file=str(BUNDLES / bundle / "configs" / "metadata.json"),
        filepath=str(SCHEMA),
        hash_val=digest,
        hash_type="sha256",
    )
    assert hashlib.sha256(SCHEMA.read_bytes()).hexdigest() == digest, "no other schema was downloaded"


@pytest.mark.parametrize("bundle", NAMES)
def test_metadata_agrees_with_the_rest(bundle: str) -> None:
    metadata, network = load(bundle, "metadata"), load(bundle, "inference")["network_def"]
    assert list(metadata["changelog"])[0] == metadata["version"]
    image, mask = (metadata["network_data_format"][way] for way in ("inputs", "outputs"))
    assert image["image"]["num_channels"] == len(image["image"]["channel_def"]) == network["image_channels"]
    assert mask["pred"]["num_channels"] == network["mask_channels"]
    for name in ("monai_version", "pytorch_version", "numpy_version", "required_packages_version"):
        assert metadata[name] == load("monuseg", "metadata")[name]


@pytest.mark.parametrize("bundle", NAMES)
def test_network_has_the_shapes_of_the_metadata(bundle: str) -> None:
    arguments = {
        "meta_file": str(BUNDLES / bundle / "configs" / "metadata.json"),
        "config_file": str(BUNDLES / bundle / "configs" / "inference.json"),
        "device": "cpu",
    }
    monai.bundle.verify_net_in_out("segmentor", **arguments)
    wrong = {"_meta_#network_data_format#outputs#pred#num_channels": 2}
    with pytest.raises(ValueError, match="output channel number"):
        monai.bundle.verify_net_in_out("segmentor", **arguments, **wrong)


# configs


@pytest.mark.parametrize(("bundle", "name"), FILES)
def test_every_target_is_found(bundle: str, name: str) -> None:
    targets = [value for path, value in entries(load(bundle, name)) if path.endswith("#_target_")]
    assert targets
    locator = ComponentLocator()
    for target in targets:
        if "." in target:
            assert callable(pydoc.locate(target)), target
        else:
            assert isinstance(locator.get_component_module_name(target), str), f"{target}: none, or not only one"


@pytest.mark.parametrize(("bundle", "name"), FILES)
def test_every_name_in_an_expression_is_known(bundle: str, name: str) -> None:
    config = load(bundle, name)
    base = config if "imports" in config else load(bundle, "train")
    modules = {}
    for statement in base["imports"]:
        module = statement.removeprefix("$import ")
        modules[module] = importlib.import_module(module)
    expressions = [value[1:] for path, value in entries(config) if value.startswith("$") and "#imports#" not in path]
    assert expressions
    for expression in expressions:
        tree = ast.parse(re.sub(r"@[\w:#]+", "REFERENCE", expression), mode="eval")
        for node in ast.walk(tree):
            if isinstance(node, ast.Name):
                assert node.id in modules or node.id == "REFERENCE" or hasattr(builtins, node.id), expression
            chain = []
            while isinstance(node, ast.Attribute):
                chain.insert(0, node.attr)
                node = node.value
            if chain and isinstance(node, ast.Name) and node.id in modules:
                found = modules[node.id]
                for attribute in chain:
                    assert hasattr(found, attribute), expression
                    found = getattr(found, attribute)


@pytest.mark.parametrize(("bundle", "name"), FILES)
def test_every_reference_is_found(bundle: str, name: str) -> None:
    base = [] if name in ("train", "inference") else ["train"]
    parser = read(bundle, *base, name)
    for path, value in entries(parser.config):
        if value.startswith(("$", "@")):
            for reference in re.findall(r"@([\w:#]+)", value):
                assert reference in parser, f"{path}: {value}"


@pytest.mark.parametrize("bundle", NAMES)
def test_training_and_inference_agree(bundle: str) -> None:
    train, inference = read(bundle, "train"), read(bundle, "inference")
    names = "bundle_root device seed num_workers model_settings network_def network scheduler inferer"
    names += " num_inference_steps num_generations window_size window_overlap window_blending window_mode stop_early"
    names += " compile amp threshold"
    settings = [value.removeprefix("@") for value in train["model_settings"].values()]
    assert {"prediction_type", "num_train_timesteps", "image_mean", "image_std"} < {*settings}
    for name in [*names.split(), *settings]:
        assert name in train, name
        assert train[name] == inference[name], name


@pytest.mark.parametrize("bundle", NAMES)
@pytest.mark.parametrize("name", ["train", "inference"])
def test_bundle_root_from_the_repository_and_from_the_bundle(
    bundle: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder, expected in ((BUNDLES.parent, f"bundles/{bundle}"), (BUNDLES / bundle, ".")):
        monkeypatch.chdir(folder)
        assert read(bundle, name).get_parsed_content("bundle_root") == expected
