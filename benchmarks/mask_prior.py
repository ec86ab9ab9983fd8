# SPDX-License-Identifier: Apache-2.0
"""How much of what a mask prior gains comes from its network, and how much from diffusion.

Run ``python -m benchmarks.mask_prior --help``.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from monai_segdiff import atomic_write, load_weights
from monai_segdiff.exceptions import CheckpointError, DatasetError

from .bundle import MONUSEG, Bundle
from .command import command_parser, overrides_of, positive, readable_errors
from .mask_prior_arm import WEIGHTS, MaskPriorArm, mask_prior_arms
from .mask_prior_plot import draw_mask_prior
from .mask_prior_table import flat_mask_prior, format_mask_prior
from .result_store import ResultStore
from .table import write_csv
from .timed_inferer import TimedInferer

__all__ = ["mask_prior"]

DESCRIPTION = """\
Compare a mask prior (DDPS) with the base that it refines, and with its own network in a single step.

Each row is the bundle's own evaluation with other settings: the base alone; the same network trained for one step only,
which adds a head to the base but no diffusion; the prior in 1, 3, 5 and 10 steps; 3 steps with the exact posterior,
from the base's prediction, and as the mean of 5 samples; a prior trained with noise on the truth; and the ensembles of
the base with the head and with the prior. Rows whose weights are not given are left out.

Scores are means over images, the expected calibration error (ECE) is that of all their pixels; the differences are
paired, image by image; all with 95 % bootstrap intervals over images. Seconds are those of the inferer, for an image;
the ratio is that to the base. Run it again to continue."""
EXAMPLE = """--dataset_dir VALIDATION --first_prediction runs/ddps/model.pt \\
      --single_step runs/head/model.pt --ground_truth runs/truth/model.pt --output_dir runs/compared"""
HIPPOCAMPUS = MONUSEG.with_name("hippocampus")
TRANSFORMS, DATA = "validate#postprocessing#transforms", "validate#dataset#data"
# What the comparison itself sets.
OWN = ("bundle_root", "dataset_dir", "ckpt", "training_split", "output_dir", "uncertainty", DATA)
# What of the bundle decides about a result, besides the weights, the images and the settings of an arm. Entries that a
# bundle does not have are None.
VALUES = (
    *("model_settings", "num_classes", "window_size", "window_overlap", "window_blending", "amp", "seed"),
    *("threshold", "temperature", "score_scale", "instances", "instance_separation"),
)
CONFIGS = (
    *("base_network_def", "network_def", "scheduler", "inferer", "load_image_and_label", "normalize"),
    *(TRANSFORMS, "validate#handlers"),
)


def mask_prior(
    bundle: Bundle,
    dataset_dir: str | Path,
    weights: Mapping[str, str],
    output_dir: str | Path,
    num_images: int | None = None,
) -> list[dict[str, Any]]:
    """Evaluate every arm that the weights allow; what is already there is not evaluated again.

    Writes ``mask_prior.json`` (all results so far, for each image), ``mask_prior.csv``, ``mask_prior.txt`` (the tables)
    and ``mask_prior.png``, and the bundle's report of each arm to a folder of its name.

    Args:
        bundle: a bundle with a :class:`~monai_segdiff.MaskPriorInferer`.
        dataset_dir: dataset to score; training images that a ``split.json`` beside any of the weights names are left
            out.
        weights: files of weights by what they were trained with: ``first_prediction``, and any of ``single_step`` and
            ``ground_truth``. All must hold the same base.
        output_dir: folder to write to.
        num_images: take only the first images.

    Returns:
        One row for each arm, see :func:`~benchmarks.mask_prior_table.flat_mask_prior`.

    Raises:
        KeyError: the bundle refines nothing: an arm sets an entry that its configs do not have.
        CheckpointError: weights are missing, damaged, of another network, or have another base.
        DatasetError: the dataset or earlier results cannot be used, or no image remains.
    """
    output_dir = Path(output_dir)
    weights = {name: str(Path(path).resolve()) for name, path in weights.items()}
    bundle = bundle.with_overrides({"dataset_dir": str(Path(dataset_dir).resolve()), "uncertainty": False})
    arms = mask_prior_arms(weights, bundle.value("num_train_timesteps"))
    bundle.with_overrides(arms[0].settings)  # fails now, not after the weights have been read
    digests = _checked(bundle, weights)
    entries = _untrained(bundle, weights)[:num_images]
    protocol = {name: bundle.value(name) if bundle.config(name) is not None else None for name in VALUES}
    protocol |= {name: bundle.config(name) for name in CONFIGS}
    protocol |= {"device": bundle.device.type, "threads": torch.get_num_threads()}
    images = _digest(*(entry[key] for entry in entries for key in ("image", "label")))
    store = ResultStore(output_dir / "mask_prior.json", protocol, ("sha256", "images_sha256", *arms[0].settings))
    rows = []
    with tqdm(arms, unit="arm") as progress:
        for arm in progress:
            progress.set_description(arm.name)
            key = {"sha256": digests[arm.weights], "images_sha256": images, **arm.settings}
            if store.find(**key) is None:
                found = _evaluate(bundle, arm, weights[arm.weights], entries, output_dir / arm.folder)
                store.add({"arm": arm.name, **key, **found})
            stored = store.find(**key)
            assert stored is not None, "it has just been added"
            found = {name: stored[name] for name in ("mean", "pooled", "images", "seconds")}
            # The same file may serve two arms under different names.
            rows.append({"arm": arm.name, "weights": arm.weights, **key, **found})
    flat = flat_mask_prior(rows)
    write_csv(output_dir / "mask_prior.csv", flat)
    with atomic_write(output_dir / "mask_prior.txt") as temporary:
        temporary.write_text(format_mask_prior(flat) + "\n", encoding="utf-8")
    draw_mask_prior(output_dir / "mask_prior.png", flat)
    return flat


def _evaluate(
    bundle: Bundle, arm: MaskPriorArm, weights: str, entries: Sequence[Mapping[str, str]], folder: Path
) -> dict[str, Any]:
    """Run the bundle's evaluation without its pictures of each image, and return its report and the time."""
    transforms = [item for item in bundle.config(TRANSFORMS) if not item["_target_"].endswith("SaveOverlayd")]
    paths = {"ckpt": weights, "output_dir": str(folder.resolve())}
    own = bundle.with_overrides({**arm.settings, **paths, DATA: entries, TRANSFORMS: transforms})
    evaluator = own.value("validate#evaluator")
    evaluator.inferer = timed = TimedInferer(evaluator.inferer)
    with redirect_stdout(io.StringIO()):  # the report's table of every image
        evaluator.run()
    report = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    seconds = sum(timed.seconds) / len(timed.seconds)
    return {"seconds": seconds, **{name: report[name] for name in ("mean", "pooled", "images")}}


def _checked(bundle: Bundle, weights: Mapping[str, str]) -> dict[str, str]:
    """Return the SHA-256 of each file, once all fit the bundle's network and hold the same base."""
    network = bundle.value("network_def")
    digests, bases = {}, {}
    for name, path in weights.items():
        load_weights(network, path, bundle.value("model_settings"))
        digests[name] = _digest(path)
        bases[path] = {key: value.clone() for key, value in network.base.state_dict().items()}
    first, *others = bases
    for path in others:
        # Weights may be stored in half precision.
        same = [torch.allclose(bases[path][key], bases[first][key], rtol=1e-3, atol=1e-6) for key in bases[first]]
        if not all(same):
            raise CheckpointError(
                f"Checkpoint {path} has another base than {first}: {same.count(False)} of its {len(same)} tensors "
                "differ; expected weights that refine the same one."
            )
    return digests


def _untrained(bundle: Bundle, weights: Mapping[str, str]) -> list[dict[str, str]]:
    """Return the images that trained none of the networks, as the bundle's evaluation lists them."""
    first, *others = [bundle.with_overrides({"ckpt": path}).value(DATA) for path in weights.values()]
    names = set.intersection({entry["name"] for entry in first}, *({entry["name"] for entry in o} for o in others))
    if not names:
        raise DatasetError(
            f"{bundle.value('dataset_dir')}: each image trained one of the networks, expected at least one other."
        )
    return [entry for entry in first if entry["name"] in names]


def _digest(*paths: str) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(hashlib.sha256(Path(path).read_bytes()).digest())
    return digest.hexdigest()


def _bundle_folder(text: str) -> Path:
    missing = [name for name in ("train", "evaluate") if not (Path(text) / "configs" / f"{name}.json").is_file()]
    if missing:
        raise argparse.ArgumentTypeError(f"{text} has no configs/{missing[0]}.json, expected the folder of a bundle.")
    return Path(text)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command with the given words, default: those of the command line."""
    parser = command_parser("benchmarks.mask_prior", DESCRIPTION, EXAMPLE)
    parser.add_argument("--bundle", type=_bundle_folder, default=HIPPOCAMPUS, help="its folder; default: hippocampus")
    parser.add_argument("--dataset_dir", required=True, help="dataset to score, without what any network trained on")
    parser.add_argument("--first_prediction", required=True, metavar="PATH", help="weights of the prior as published")
    parser.add_argument("--single_step", metavar="PATH", help="weights of the same network, trained for one step only")
    parser.add_argument("--ground_truth", metavar="PATH", help="weights of a prior trained with noise on the truth")
    parser.add_argument("--num_images", type=positive, help="only the first images")
    parser.add_argument(
        "--output_dir", default="benchmark_results/mask_prior", help="folder to write to, and to continue"
    )
    options = parser.parse_args(arguments)
    weights = {name: getattr(options, name) for name in WEIGHTS if getattr(options, name) is not None}
    overrides = overrides_of(options)
    taken = sorted(overrides.keys() & {*OWN, *mask_prior_arms(WEIGHTS, 1)[0].settings})
    if taken:
        parser.error(f"--override {', '.join(taken)}: set by the comparison, expected no override.")
    with readable_errors(parser):
        bundle = Bundle(overrides, root=options.bundle)
        flat = mask_prior(bundle, options.dataset_dir, weights, options.output_dir, options.num_images)
    print(format_mask_prior(flat))
    print(f"\nImages: {flat[0]['images']}. Differences are paired, image by image. Also in {options.output_dir}.")


if __name__ == "__main__":
    main()
