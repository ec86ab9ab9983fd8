# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator
from torch import nn

from monai_segdiff.exceptions import CheckpointError
from monai_segdiff.handlers import StrictCheckpointLoader, load_weights
from monai_segdiff.handlers.strict_checkpoint_loader import read_checkpoint


def network(seed: int = 0, width: int = 4) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.Conv2d(width, 1, 1))


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def halved(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: value.half() if value.is_floating_point() else value for key, value in state.items()}


@pytest.mark.parametrize("wrap", [lambda state: state, lambda state: {"model": state}], ids=["plain", "model"])
def test_loads(tmp_path: Path, wrap: Callable[[Any], Any]) -> None:
    saved, loaded = network(1), network(2)
    assert not same(saved.state_dict(), loaded.state_dict())
    torch.save(wrap(saved.state_dict()), tmp_path / "model.pt")
    load_weights(loaded, tmp_path / "model.pt")
    assert same(saved.state_dict(), loaded.state_dict())


def test_half_precision_is_widened(tmp_path: Path) -> None:
    saved, loaded = network(1), network(2)
    torch.save(halved(saved.state_dict()), tmp_path / "model.pt")
    load_weights(loaded, str(tmp_path / "model.pt"))
    assert same(
        loaded.state_dict(), {k: v.to(saved.state_dict()[k].dtype) for k, v in halved(saved.state_dict()).items()}
    )
    assert loaded[0].weight.dtype == torch.float32


def test_wrapped_network(tmp_path: Path) -> None:
    saved, loaded = network(1), network(2)
    torch.save(saved.state_dict(), tmp_path / "model.pt")
    load_weights(nn.DataParallel(loaded), tmp_path / "model.pt")
    assert same(saved.state_dict(), loaded.state_dict())


def missing(path: Path) -> None:
    pass


def folder(path: Path) -> None:
    path.mkdir()


def empty(path: Path) -> None:
    path.touch()


def truncated(path: Path) -> None:
    torch.save(network(1).state_dict(), path)
    path.write_bytes(path.read_bytes()[:-300])


def text(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


def picture(path: Path) -> None:
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))


def pickled_network(path: Path) -> None:
    torch.save(network(1), path)


def plain_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"weight": [1, 2, 3]}))


def zip_file(path: Path) -> None:
    path.write_bytes(b"PK\x05\x06" + bytes(18))


def number(path: Path) -> None:
    torch.save({"epoch": 3}, path)


def listed(path: Path) -> None:
    torch.save([torch.ones(3)], path)


def wider(path: Path) -> None:
    torch.save(network(1, width=5).state_dict(), path)


def lacking(path: Path) -> None:
    state = network(1).state_dict()
    del state["2.bias"]
    torch.save(state, path)


def prefixed(path: Path) -> None:
    torch.save({f"module.{key}": value for key, value in network(1).state_dict().items()}, path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (missing, "does not exist"),
        (folder, "does not exist"),
        (empty, "is damaged or not a PyTorch checkpoint"),
        (truncated, "is damaged or not a PyTorch checkpoint"),
        (text, "is damaged or not a PyTorch checkpoint"),
        (picture, "is damaged or not a PyTorch checkpoint"),
        (zip_file, "is damaged or not a PyTorch checkpoint"),
        (pickled_network, "is damaged or not a PyTorch checkpoint"),
        (plain_pickle, "is damaged or not a PyTorch checkpoint"),
        (number, "holds no state dict of tensors"),
        (listed, "holds no state dict of tensors"),
        (wider, "0 tensors are missing, 0 are not known, 7 have another shape; for example 0.bias, 0.weight, 1.bias"),
        (lacking, "1 tensors are missing, 0 are not known, 0 have another shape; for example 2.bias"),
        (prefixed, "9 tensors are missing, 9 are not known, 0 have another shape"),
    ],
)
def test_refused(tmp_path: Path, make: Callable[[Path], None], message: str) -> None:
    path = tmp_path / "model.pt"
    make(path)
    loaded = network(2)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_weights(loaded, path)
    assert str(path) in str(caught.value)
    assert same(loaded.state_dict(), network(2).state_dict()), "a refused file must not change the network"


def test_no_code_is_run(tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "harm",))

    torch.save({"weight": Harmful()}, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="damaged"):
        read_checkpoint(tmp_path / "model.pt")
    assert not (tmp_path / "harm").exists()


def test_handler_loads_when_the_engine_starts(tmp_path: Path) -> None:
    saved, loaded = network(1).eval(), network(2)
    torch.save(saved.state_dict(), tmp_path / "model.pt")
    image = torch.rand(1, 6, 6, generator=torch.Generator().manual_seed(0))
    engine = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Dataset([{"image": image}]), batch_size=1),
        network=loaded,
        val_handlers=[StrictCheckpointLoader(loaded, tmp_path / "model.pt")],
    )
    assert not same(saved.state_dict(), loaded.state_dict())
    engine.run()
    assert same(saved.state_dict(), loaded.state_dict())
    assert torch.equal(engine.state.output[0]["pred"].as_subclass(torch.Tensor), saved(image[None])[0].detach())
