# SPDX-License-Identifier: Apache-2.0
"""Training in bfloat16, which works on processors as well."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser
from torch import nn


@pytest.fixture
def precisions(monkeypatch: pytest.MonkeyPatch) -> set[tuple[bool, bool, torch.dtype]]:
    """Whether there is a gradient, whether the network is in training, and what convolutions return then."""
    seen: set[tuple[bool, bool, torch.dtype]] = set()
    forward = nn.Conv2d.forward

    def noted(self: nn.Conv2d, *args: torch.Tensor) -> torch.Tensor:
        result = forward(self, *args)
        seen.add((torch.is_grad_enabled(), self.training, result.dtype))
        return result

    monkeypatch.setattr(nn.Conv2d, "forward", noted)
    return seen


@pytest.mark.parametrize("name", ["bundle", "nuclei"])
@pytest.mark.parametrize(("amp", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_everything_runs_in_the_precision_asked_for(
    request: pytest.FixtureRequest,
    precisions: set[tuple[bool, bool, torch.dtype]],
    tmp_path: Path,
    name: str,
    amp: bool,
    dtype: torch.dtype,
) -> None:
    own = request.getfixturevalue(name)
    own.run(
        "train", run_dir=tmp_path, amp=amp, **{key: 1 for key in ("max_epochs", "base_epochs") if key in own.training}
    )
    # Training, the first prediction that is noised (of a base, which is never in training), validation.
    assert precisions >= {(True, True, dtype), (False, name == "bundle", dtype), (False, False, dtype)}
    # Building a base probes it once, in float32; its own validation is MONAI's inferer without casting.
    probed = {(False, False, torch.float32), (True, False, torch.float32)} if name == "nuclei" else set()
    assert {seen for seen in precisions if seen[2] != dtype} <= probed
    state = torch.load(tmp_path / "model.pt", weights_only=True)
    assert {value.dtype for value in state.values() if value.is_floating_point()} == {torch.float32}
    assert all(torch.isfinite(torch.tensor(json.loads((tmp_path / "history.json").read_text())["loss"]["value"])))


@pytest.mark.parametrize(
    ("device", "amp", "expected"),
    [
        ("cpu", False, torch.channels_last),
        ("cpu", True, torch.contiguous_format),
        ("cuda", True, torch.channels_last),
        ("cuda", False, torch.channels_last),
    ],
)
def test_memory_format_of_the_training(bundle, device: str, amp: bool, expected: torch.memory_format) -> None:
    """oneDNN trains in bfloat16 faster on contiguous tensors; it segments faster on channels-last ones."""
    for names in ("train", "train evaluate", "inference"):
        parser = ConfigParser()
        parser.read_config(bundle.files(names))
        parser.update({"device": device, "amp": amp})
        found = parser.get_parsed_content("memory_format")
        assert found == (expected if names == "train" else torch.channels_last)


def test_all_trainings_cast_in_the_same_way(bundle) -> None:
    for path in sorted(bundle.root.glob("bundles/*/configs/train.json")):
        config = json.loads(path.read_text())
        for part in (config, config.get("base", {})):
            trainer = part.get("train", part).get("trainer", {})
            assert "amp" not in trainer, path
        assert "AutocastInferer" in json.dumps(config["train"]["inferer"]), path
        assert "base" not in config or "AutocastInferer" in json.dumps(config["base"]["trainer"]["inferer"]), path
