# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from monai_segdiff import SegDiffUNet, convert_released_state_dict
from monai_segdiff.exceptions import CheckpointError

sys.path.insert(0, str(Path(__file__).parent))
from released_reference import ReleasedNetwork  # noqa: E402

WIDTHS, ATTENTION = [32, 64, 64], [False, True, True]
PINNED = [[-0.496027, -0.110318, 0.318004], [-0.162135, 0.362119, -1.163859], [-0.213849, -0.078262, -1.473182]]


@pytest.fixture(scope="module")
def released() -> ReleasedNetwork:
    return ReleasedNetwork(WIDTHS, ATTENTION, num_res_blocks=2, num_rrdb=2, seed=7)


@pytest.fixture(scope="module")
def network(released: ReleasedNetwork) -> SegDiffUNet:
    network = SegDiffUNet(2, 3, 1, channels=WIDTHS, attention_levels=ATTENTION, num_res_blocks=2, num_rrdb_blocks=2)
    network.load_state_dict(convert_released_state_dict(released.weights, num_res_blocks=2))
    return network.eval()


@torch.no_grad()
def test_forward_equals_a_second_implementation(released: ReleasedNetwork, network: SegDiffUNet) -> None:
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(2, 3, 16, 24, generator=generator)
    x = torch.randn(2, 1, 16, 24, generator=generator)
    timesteps = torch.tensor([7, 83])
    expected = released(x, timesteps, image)
    assert expected.std() > 0.1
    assert (network(x, timesteps, context=image) - expected).abs().max() < 1e-5
    assert (network.encode_image(image) - released.encode_image(image)).abs().max() < 1e-5


@torch.no_grad()
def test_pinned_output(network: SegDiffUNet) -> None:
    # Values that this network had when it agreed with the released code's own tensors.
    ramp = torch.linspace(-1, 1, 64).reshape(1, 1, 8, 8)
    output = network(ramp, torch.tensor([42]), context=torch.cat([ramp, -ramp, ramp**2], 1))
    expected = torch.tensor(PINNED)
    torch.testing.assert_close(output[0, 0, ::3, ::3], expected, atol=1e-5, rtol=1e-5)


def test_weights_land_where_the_layout_says(released: ReleasedNetwork, network: SegDiffUNet) -> None:
    state = network.state_dict()
    qkv = released.weights["input_blocks.4.1.qkv.weight"].squeeze(-1)
    head = 64 // 4
    # Laid out [head][q|k|v][dim]: the key of head 2 starts after two whole heads and one query.
    start = 2 * 3 * head + head
    assert torch.equal(
        state["unet.down_blocks.1.attentions.0.attn.to_k.weight"][2 * head : 3 * head], qkv[start : start + head]
    )
    assert torch.equal(state["mask_encoder.conv.weight"], released.weights["input_blocks.0.0.weight"])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda weights: weights | {"output_blocks.99.0.in_layers.0.weight": torch.zeros(1)}, "output_blocks.99"),
        (lambda weights: weights | {"label_emb.weight": torch.zeros(1)}, "label_emb"),
        (lambda weights: {"model.weight": torch.zeros(1)}, "input_blocks"),
    ],
)
def test_other_checkpoints_are_refused(released: ReleasedNetwork, change: object, named: str) -> None:
    with pytest.raises(CheckpointError, match=named):
        convert_released_state_dict(change(released.weights), num_res_blocks=2)  # type: ignore[operator]
