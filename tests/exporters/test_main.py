# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser

from monai_segdiff import SegDiffUNet
from monai_segdiff.exporters import ExportedNetwork
from monai_segdiff.exporters.__main__ import main

ROOT = Path(__file__).parents[2]
NETWORK = {
    "_target_": "monai_segdiff.SegDiffUNet",
    "spatial_dims": 2,
    "image_channels": 3,
    "mask_channels": 1,
    "channels": [8],
    "attention_levels": [False],
    "num_res_blocks": 1,
    "num_rrdb_blocks": 1,
    "rrdb_channels": 4,
    "rrdb_growth_channels": 2,
    "norm_num_groups": 4,
}
CONFIG = {
    "prediction_type": "sample",
    "window_size": 6,
    "model_settings": {"prediction_type": "@prediction_type"},
    "network_def": NETWORK,
}
SETTINGS = {"prediction_type": "sample", "num_train_timesteps": 100}


@pytest.fixture
def bundle(tmp_path: Path, tiny: Callable[..., SegDiffUNet]) -> Path:
    """Bundle with the weights of a small network, and with the config and the weights of a wider one."""
    folder = tmp_path / "bundle"
    for name in ("configs", "models"):
        (folder / name).mkdir(parents=True)
    (folder / "configs" / "inference.json").write_text(json.dumps(CONFIG))
    (folder / "models" / "model.json").write_text(json.dumps(SETTINGS))
    (folder / "configs" / "wide.json").write_text(json.dumps({"network_def": NETWORK | {"channels": [12]}}))
    for name, width in (("models/model.pt", 8), ("wide.pt", 12)):
        torch.save(tiny(channels=(width,), attention_levels=(False,)).half().state_dict(), folder / name)
    return folder


def test_exports_and_tells_how_to_load(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "export"
    assert main([str(target), "--bundle", str(bundle)]) == 0
    told = capsys.readouterr()
    written = json.loads((target / "export.json").read_text())
    digest = hashlib.sha256((bundle / "models" / "model.pt").read_bytes()).hexdigest()
    assert written["weights"] == {"file": "model.pt", "sha256": digest, **SETTINGS}
    assert written["parity"]["image_shapes"][0] == [1, 3, 6, 6]
    assert told.err == ""
    assert f"Wrote {target} (torch_export, PyTorch {torch.__version__})" in told.out
    assert "image [batch, 3, size_0, size_1] -> image_features [batch, 8, size_0, size_1]" in told.out
    assert "Largest differences from the network: image_features" in told.out
    # What it says of loading can be typed in.
    *_, sample, importing, loading, alone, encoder, denoiser = told.out.splitlines()
    assert (sample, alone) == ("Sample with it:", "Or load the files alone:")
    found: dict[str, Any] = {"torch": torch}
    exec("\n".join(line.strip() for line in (importing, loading, encoder, denoiser)), found)
    assert isinstance(found["network"], ExportedNetwork)
    image = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(found["encoder"](image), found["network"].encode_image(image))
    assert found["denoiser"](image[:, :1], torch.tensor([1]), found["encoder"](image)).shape == (1, 1, 8, 8)


def test_configs_of_other_weights(bundle: Path, tmp_path: Path) -> None:
    words = ["--bundle", str(bundle), "--ckpt", str(bundle / "wide.pt")]
    words += ["--config_file", str(bundle / "configs" / "wide.json")]
    assert main([str(tmp_path / "export"), *words, "--roi_size", "5", "7", "--tolerance", "0.01"]) == 0
    written = json.loads((tmp_path / "export" / "export.json").read_text())
    assert written["feature_channels"] == 12
    assert sorted(written["weights"]) == ["file", "sha256"]
    assert written["parity"]["image_shapes"][0] == [1, 3, 5, 7]
    assert written["parity"]["tolerance"] == 0.01


# Each changes the bundle and returns what to add to the command line.


def no_bundle(bundle: Path) -> list[str]:
    (bundle / "configs" / "inference.json").unlink()
    return []


def broken_config(bundle: Path) -> list[str]:
    (bundle / "configs" / "inference.json").write_text("{")
    return []


def no_network(bundle: Path) -> list[str]:
    (bundle / "configs" / "inference.json").write_text("{}")
    return []


def bad_network(bundle: Path) -> list[str]:
    config = CONFIG | {"network_def": NETWORK | {"patch_size": 0}}
    (bundle / "configs" / "inference.json").write_text(json.dumps(config))
    return []


def other_network(bundle: Path) -> list[str]:
    layer = {"_target_": "torch.nn.Linear", "in_features": 1, "out_features": 1}
    (bundle / "configs" / "inference.json").write_text(json.dumps(CONFIG | {"network_def": layer}))
    torch.save(torch.nn.Linear(1, 1).state_dict(), bundle / "models" / "model.pt")
    return []


def no_weights(bundle: Path) -> list[str]:
    (bundle / "models" / "model.pt").unlink()
    return []


def other_weights(bundle: Path) -> list[str]:
    return ["--ckpt", str(bundle / "wide.pt")]


def other_settings(bundle: Path) -> list[str]:
    (bundle / "models" / "model.json").write_text('{"prediction_type": "epsilon"}')
    return []


def no_onnx(bundle: Path) -> list[str]:
    return ["--format", "onnx"]


def bad_size(bundle: Path) -> list[str]:
    return ["--roi_size", "1"]


def full_folder(bundle: Path) -> list[str]:
    (bundle.parent / "export").mkdir()
    (bundle.parent / "export" / "notes.txt").touch()
    return []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (no_bundle, "ExportError: {bundle}/configs/inference.json does not exist; expected a bundle folder"),
        (broken_config, "ExportError: {bundle}/configs/inference.json: cannot be read"),
        (no_network, "ExportError: {bundle}/configs/inference.json has no entry network_def"),
        (bad_network, "ExportError: Entry network_def of the configs cannot be built: patch_size must be at least 1"),
        (other_network, "TypeError: network must be one of ['SegDiffUNet', 'MaskPriorUNet'], found Linear"),
        (no_weights, "CheckpointError: Checkpoint {bundle}/models/model.pt does not exist"),
        (other_weights, "CheckpointError: Checkpoint {bundle}/wide.pt was written for another network"),
        (other_settings, "was trained with prediction_type='epsilon', expected 'sample' as configured"),
        (
            no_onnx,
            "ImportError: Format 'onnx' needs onnx, onnxscript, onnxruntime: pip install 'monai_segdiff[export]'",
        ),
        (bad_size, "ValueError: roi_size must be multiples of 1, at least 2, found [1, 1]; [2, 2] would do."),
        (full_folder, "ExportError: {export} holds ['notes.txt']"),
    ],
)
def test_errors_take_one_line(
    bundle: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Path], list[str]],
    message: str,
) -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        monkeypatch.setitem(sys.modules, name, None)
    words = change(bundle)
    before = sorted(bundle.parent.rglob("*"))
    export = bundle.parent / "export"
    assert main([str(export), "--bundle", str(bundle), *words]) == 1
    told = capsys.readouterr()
    assert message.format(bundle=bundle, export=export) in told.err
    assert (told.out, told.err.count("\n")) == ("", 1)
    assert sorted(bundle.parent.rglob("*")) == before


@pytest.mark.parametrize("words", [[], ["export"], ["export", "--bundle", "a", "--format", "torchscript"]])
def test_bad_command_lines(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    assert "usage: python -m monai_segdiff.exporters" in capsys.readouterr().err


def test_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    assert "python -m monai_segdiff.exporters export --bundle bundles/monuseg --format onnx" in capsys.readouterr().out


@pytest.mark.parametrize("bundle", sorted(path.parents[1].name for path in ROOT.glob("bundles/*/configs/paper.json")))
def test_the_networks_of_the_bundles_are_known(bundle: str, capsys: pytest.CaptureFixture[str]) -> None:
    """As far as the weights, which no test depends on."""
    configs = ROOT / "bundles" / bundle / "configs"
    for overrides in ([], ["--config_file", str(configs / "paper.json")]):
        assert main(["export", "--bundle", str(configs.parent), "--ckpt", "none.pt", *overrides]) == 1
        assert capsys.readouterr().err == "CheckpointError: Checkpoint none.pt does not exist.\n"


@pytest.mark.end_to_end
def test_in_its_own_process(bundle: Path, tmp_path: Path, any_format: str) -> None:
    words = ["-m", "monai_segdiff.exporters", "export", "--bundle", "bundle", "--format", any_format]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("PYTHONWARNINGS", None)
    done = subprocess.run(
        [sys.executable, *words], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"Wrote export ({any_format}, ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "export"]


@pytest.mark.end_to_end
@pytest.mark.parametrize("bundle", ["monuseg", "monuseg_ddps", "hippocampus"])
def test_shipped_weights_segment_alike(bundle: str, tmp_path: Path, any_format: str) -> None:
    """With the bundle's own inferer, in windows, on a picture or volume that is no multiple of anything."""
    folder = ROOT / "bundles" / bundle
    assert main([str(tmp_path / "export"), "--bundle", str(folder), "--format", any_format]) == 0
    parser = ConfigParser()
    parser.read_config(str(folder / "configs" / "inference.json"))
    network, inferer = (parser.get_parsed_content(name) for name in ("network_def", "inferer"))
    network.load_state_dict(torch.load(folder / "models" / "model.pt", weights_only=True))
    size = (45, 53, 38) if network.spatial_dims == 3 else (150, 131)
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(1, network.image_channels, *(edge // 8 for edge in size), generator=generator)
    image = torch.nn.functional.interpolate(coarse, size, mode="trilinear" if len(size) == 3 else "bilinear")
    expected = inferer(image, network.eval())
    found = inferer(image, ExportedNetwork(tmp_path / "export"))
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    if len(size) == 3:
        assert torch.equal(found.argmax(dim=1), expected.argmax(dim=1))
    else:
        assert torch.equal(found > 0.5, expected > 0.5)
