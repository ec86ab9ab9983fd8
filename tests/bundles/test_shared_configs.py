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

PRIORS = ("hippocampus", "monuseg_ddps")  # the bundles of DDPS; the others are of SegDiff

# By config files: entries that are not about the data of a bundle, and so are those of bundles/monuseg.
SEGDIFF = {
    "train": """
        imports device seed resume resuming start_processes rank is_not_rank0 num_workers amp compile
        initial_weights noise_on prediction_share timestep_weights dice_weight bce_weight learning_rate
        warmup_iterations weight_decay max_gradient_norm checkpoint_interval ema_momentum ema_warmup
        num_train_timesteps prediction_type num_inference_steps num_generations window_mode stop_early threshold
        network_def memory_format network ema scheduler inferer prepare_batch training_inferer loss optimizer
        lr_schedule normalize train#dataset#_target_ train#dataset#data train#dataset#transform
        train#dataset#progress train#dataloader train#inferer train#loss train#handlers train#trainer
        validate#keep_picture validate#dataset#data validate#dataset#transform validate#dataloader
        validate#inferer validate#key_metric validate#handlers validate#evaluator initialize#0 initialize#1
        initialize#2 initialize#5 training run finalize
    """,
    "train evaluate": """
        ckpt output_dir memory_format dataset evaluator handlers uncertainty with_uncertainty temperature
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
        network_def memory_format network scheduler inferer segmentor dataset dataloader scale_temperature
        resize_to_picture restore
        make_mask postprocessing post_transforms displayable_configs handlers evaluator initialize inference#1
        inference#2 run
    """,
}

# Entries that are about the nuclei, or about no method, in both bundles for them.
NUCLEI = {
    "train": """
        imports device sample_dir dataset_dir val_dataset_dir on_sample run_dir resume resuming start_processes
        rank is_not_rank0 seed initial_weights checkpoint_interval image_mean image_std crops_per_image
        images_per_batch rotate_padding zoom_padding num_workers num_generations window_overlap window_blending
        threshold amp datalist ema optimizer lr_schedule load_image_and_label normalize train#preprocessing
        train#augmentation train#dataset train#dataloader train#trainer#max_epochs
        train#trainer#train_data_loader validate what_next initialize#0 initialize#1 initialize#2 initialize#3
        initialize#4 run finalize
    """,
    "train evaluate": """
        ckpt training_split output_dir score_scale instances with_instances instance_separation uncertainty
        with_uncertainty temperature dataset evaluator handlers datalist_of_others validate#dataset
        load_instances zoom_to_network zoom_to_score zoom_instances validate#preprocessing validate#inferer
        validate#postprocessing validate#handlers#0 validate#handlers#1 validate#handlers#2#_target_
        validate#handlers#2#output_dir validate#handlers#2#scorers#0 validate#handlers#2#scorers#1
        validate#evaluator#network initialize what_next evaluating run
    """,
    "train multi_gpu_train": """
        start_processes rank device train#sampler train#dataloader validate#sampler validate#dataloader
    """,
    "inference": """
        imports device sample_dir dataset_dir on_sample ckpt output_dir seed image_mean image_std
        num_workers num_generations window_overlap window_blending threshold temperature uncertainty with_uncertainty
        amp segmentor preprocessing dataset dataloader scale_temperature resize_to_picture restore make_mask
        make_instances postprocessing post_transforms displayable_configs handlers evaluator initialize inference run
    """,
}
# Entries that are about the method, in both bundles with a mask prior.
PRIOR = {
    "train": """
        base_dir resuming_base resuming_prior between_stages base_weights initial_weights base_is_there
        noise_on loss num_train_timesteps schedule kernel sampler start num_inference_steps
        num_generations base_weight window_overlap window_blending amp base_network network base_ema ema
        scheduler optimizer lr_schedule base_file load_base base#optimizer base#lr_schedule base#loss base#handlers
        base#trainer base#inferer base#evaluator#network base#evaluator#inferer base#evaluator#val_handlers
        train#dataset train#inferer train#loss train#handlers train#trainer train#prepare_batch validate#dataset
        validate#inferer validate#handlers validate#evaluator initialize#0 initialize#1 initialize#2 initialize#5
        training run finalize
    """,
    "train evaluate": """
        ckpt training_split output_dir uncertainty with_uncertainty dataset evaluator handlers validate#inferer
        validate#handlers#0 validate#handlers#2#_target_ validate#handlers#2#output_dir validate#evaluator#network
        initialize#0 initialize#1 initialize#2 evaluating run
    """,
    "train multi_gpu_train": """
        start_processes between_stages rank device base_network network train#sampler train#dataloader#sampler
        train#dataloader#shuffle validate#sampler validate#dataloader
    """,
    "train paper": """
        num_train_timesteps loss learning_rate weight_decay max_gradient_norm ema_momentum ema_interval ema_warmup
        network_def#channels network_def#attention_levels network_def#num_res_blocks network_def#num_head_channels
        network_def#num_states network_def#condition network_def#condition_channels network_def#embedding_channels
        network_def#norm_num_groups optimizer single_step_iterations lr_factor lr_schedule
    """,
    "inference": """
        imports device sample_dir dataset_dir on_sample ckpt output_dir seed num_workers num_train_timesteps schedule
        kernel sampler start num_inference_steps num_generations base_weight window_overlap window_blending uncertainty
        with_uncertainty amp network scheduler segmentor dataset#transform dataloader handlers#0 evaluator initialize
        inference#1 run
    """,
}
PAIRS = [
    *(("monuseg", bundle, SEGDIFF) for bundle in NAMES if bundle not in ("monuseg", *PRIORS)),
    ("monuseg", "monuseg_ddps", NUCLEI),
    ("monuseg_ddps", "hippocampus", PRIOR),
]


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


@pytest.mark.parametrize(
    ("first", "second", "names", "places"),
    [(first, second, names, places) for first, second, shared in PAIRS for names, places in shared.items()],
)
def test_bundles_have_in_common_what_they_should(first: str, second: str, names: str, places: str) -> None:
    model, parser = read(first, *names.split()), read(second, *names.split())
    for place in places.split():
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
    channels = network["base"]["image_channels"] if bundle in PRIORS else network["image_channels"]
    assert image["image"]["num_channels"] == len(image["image"]["channel_def"]) == channels
    assert mask["pred"]["num_channels"] == {"hippocampus": 3}.get(bundle, 1)
    model = load("monuseg", "metadata")
    for name in ("monai_version", "pytorch_version", "numpy_version"):
        assert metadata[name] == model[name]
    if bundle == "hippocampus":  # reads NIfTI instead of pictures
        model["required_packages_version"]["nibabel"] = metadata["required_packages_version"]["nibabel"]
        del model["required_packages_version"]["pillow"]
    assert metadata["required_packages_version"] == model["required_packages_version"]


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
    assert targets or name == "fast"  # other settings, the same parts
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
        own = {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Name):
                known = node.id in {"REFERENCE", *modules, *own} or hasattr(builtins, node.id)
                assert known, expression
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
    names = "bundle_root device seed num_workers model_settings network_def network scheduler inferer amp"
    names += " num_inference_steps num_generations window_size window_overlap window_blending"
    if bundle in PRIORS:
        names += " base_network_def num_classes sampler start base_weight"
        expected = {"schedule", "kernel", "num_train_timesteps"}
    else:
        names += " window_mode stop_early compile"
        expected = {"prediction_type", "num_train_timesteps"}
    if bundle == "hippocampus":
        names += " class_names"
        expected |= {"voxel_spacing"}
    else:
        names += " threshold"
        expected |= {"image_mean", "image_std"}
    settings = [value.removeprefix("@") for value in train["model_settings"].values()]
    assert expected <= {*settings}
    for name in [*names.split(), *settings]:
        assert name in train, name
        # MONAI Label sets the values of displayable_configs, which are those of the same names until then.
        found = json.loads(json.dumps(inference[name]).replace("@displayable_configs#", "@"))
        assert train[name] == found, name


@pytest.mark.parametrize("bundle", NAMES)
@pytest.mark.parametrize("by", ["command line", "request"])
def test_options_of_monai_label_reach_the_inferer(bundle: str, by: str) -> None:
    """A request replaces the values of displayable_configs and parses anew; the command line sets the names on top."""
    parser = read(bundle, "inference")
    parser["device"] = "cpu"
    options = {"num_inference_steps": 2, "num_generations": 4, "seed": 7}
    shown = parser.get_parsed_content("displayable_configs")
    assert {name: shown[name] for name in options} == {name: parser[name] for name in options}
    parser.update(options) if by == "command line" else parser["displayable_configs"].update(options)
    parser.parse()
    inferer = parser.get_parsed_content("inferer")
    found = (len(inferer.scheduler.timesteps), inferer.num_generations, inferer.seed)
    assert found == tuple(options.values())


@pytest.mark.parametrize("bundle", NAMES)
@pytest.mark.parametrize("name", ["train", "inference"])
def test_bundle_root_from_the_repository_and_from_the_bundle(
    bundle: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder, expected in ((BUNDLES.parent, f"bundles/{bundle}"), (BUNDLES / bundle, ".")):
        monkeypatch.chdir(folder)
        assert read(bundle, name).get_parsed_content("bundle_root") == expected
