# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import pytest
import torch
from ignite.engine import Events
from ignite.handlers import EMAHandler
from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines import SupervisedTrainer
from monai.inferers import SimpleInferer
from torch import nn
from torch.nn import functional as F

from monai_segdiff import (
    BaseSegmentor,
    CategoricalScheduler,
    MaskPriorInferer,
    MaskPriorLoss,
    MaskPriorPrepareBatch,
    MaskPriorUNet,
)
from monai_segdiff.exceptions import AnnotationError
from monai_segdiff.handlers import SingleStepStage, WeightAverage

K = 3
T = 5
TRUTH, BASE, FIRST = 0, 1, 2


def keep_probability(timesteps: torch.Tensor, total: int = T) -> torch.Tensor:
    """Give abar of the published schedule, linear from 0.99999 to 9e-6."""
    return (0.99999 + timesteps.double() / (total - 1) * (9e-6 - 0.99999)).reshape(-1, 1, 1, 1)


class Oracle(nn.Module):
    """Its base finds class 1 everywhere, its first prediction is class 2; remembers what it was asked."""

    def __init__(self, states: int = K, stride: int = 1) -> None:
        super().__init__()
        self.num_classes = K
        self.stride = stride
        self.num_states = states
        self.weight = nn.Parameter(torch.ones(()))
        self.calls: list[dict[str, Any]] = []
        self.observed_in_bfloat16: list[bool] = []

    def observe(self, image: torch.Tensor) -> torch.Tensor:
        self.observed_in_bfloat16.append(torch.is_autocast_enabled("cpu"))
        return image + 1

    def observed_logits(self, observation: torch.Tensor) -> torch.Tensor:
        return F.one_hot(torch.full_like(observation[:, 0], BASE, dtype=torch.long), K).movedim(-1, 1)

    def to_latent(self, labels: torch.Tensor) -> torch.Tensor:
        return labels[:, :, :: self.stride, :: self.stride]

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor, observation: torch.Tensor) -> torch.Tensor:
        self.calls.append(
            {
                "x": x,
                "timesteps": timesteps.tolist(),
                "observation": observation,
                "gradient": torch.is_grad_enabled(),
                "training": self.training,
                "bfloat16": torch.is_autocast_enabled("cpu"),
            }
        )
        return self.weight * F.one_hot(torch.full_like(x[:, 0], FIRST), K).movedim(-1, 1)


def batch(size: int = 6, height: int = 8, width: int = 4) -> dict[str, MetaTensor]:
    meta = {"filename_or_obj": [f"/data/{i}.png" for i in range(size)]}
    image = torch.randn(size, 2, height, width, generator=torch.Generator().manual_seed(0))
    return {
        "image": MetaTensor(image, meta=meta),
        "label": MetaTensor(torch.full((size, 1, height, width), 0.0), meta=meta),
    }


def prepare(
    noise_on: str = "first_prediction", total: int = T, network: nn.Module | None = None, **arguments: Any
) -> Any:
    kernel = arguments.pop("kernel", "uniform")
    scheduler = CategoricalScheduler(K, total, kernel=kernel)
    return MaskPriorPrepareBatch(scheduler, network or Oracle(scheduler.num_states), noise_on, **arguments)


CONTENT = {"first_prediction": FIRST, "ground_truth": TRUTH, "base_prediction": BASE}


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("noise_on", CONTENT)
def test_exactly(noise_on: str, stride: int) -> None:
    network = Oracle(stride=stride).train()
    data = batch(size=12)
    torch.manual_seed(5)
    noisy, target, args, kwargs = prepare(noise_on, network=network)(data, device="cpu")
    torch.manual_seed(5)
    timesteps = torch.randint(T, (12,))
    latent = (8 // stride, 4 // stride)
    first_noise = torch.rand(12, 2, *latent) if noise_on == "first_prediction" else None
    noise = torch.rand(12, 2, *latent)
    content = torch.where(timesteps == T - 1, TRUTH, CONTENT[noise_on]).reshape(-1, 1, 1, 1)
    expected = torch.where(noise[:, :1] < keep_probability(timesteps), content, (K * noise[:, 1:]).long())
    assert torch.equal(noisy, expected)
    assert torch.equal(target, data["label"].as_tensor().long())
    assert args == ()
    assert set(kwargs) == {"timesteps", "observation"}
    assert torch.equal(kwargs["timesteps"], timesteps)
    assert torch.equal(kwargs["observation"], data["image"].as_tensor() + 1)
    assert all(type(tensor) is torch.Tensor for tensor in (noisy, target, *kwargs.values()))
    assert noisy.dtype == target.dtype == torch.int64
    if first_noise is None:
        assert network.calls == []
        return
    (call,) = network.calls
    assert torch.equal(call["x"], (K * first_noise[:, 1:]).long()), "pure noise"
    assert torch.equal(call["observation"], kwargs["observation"])
    assert (call["timesteps"], call["gradient"], call["training"]) == ([T - 1], False, True)


@pytest.mark.parametrize("noise_on", CONTENT)
def test_noise_levels(noise_on: str) -> None:
    """Almost clean at 0; at T - 1 pure noise, which tells nothing of the truth."""
    torch.manual_seed(0)
    data = {"image": torch.zeros(200, 1, 20, 20), "label": torch.zeros(200, 1, 20, 20)}
    noisy, _, _, kwargs = prepare(noise_on, total=3)(data)
    counts = torch.bincount(kwargs["timesteps"], minlength=3)
    assert len(counts) == 3
    assert (counts - 200 / 3).abs().max() < 6 * (200 * 2 / 9) ** 0.5  # six standard deviations, here and below
    for timestep in range(3):
        found = noisy[kwargs["timesteps"] == timestep]
        keep = keep_probability(torch.tensor([timestep]), 3).item()
        for label in range(K):
            share = keep * (label == CONTENT[noise_on]) + (1 - keep) / K
            deviation = (share * (1 - share) / found.numel()) ** 0.5
            assert abs((found == label).float().mean().item() - share) < 6 * deviation


@pytest.mark.parametrize("noise_on", CONTENT)
def test_single_step_starts_from_pure_noise_always(noise_on: str) -> None:
    prepared = prepare(noise_on, single_step=True)
    torch.manual_seed(1)
    noisy, target, _, kwargs = prepared(batch(), device="cpu")
    torch.manual_seed(1)
    noise = torch.rand(6, 2, 8, 4)
    assert kwargs["timesteps"].tolist() == [T - 1] * 6
    assert torch.equal(noisy, (K * noise[:, 1:]).long())
    assert not target.any()
    assert prepared.network.calls == []


@pytest.mark.parametrize("noise_on", CONTENT)
def test_absorbing_kernel(noise_on: str) -> None:
    torch.manual_seed(2)
    prepared = prepare(noise_on, kernel="absorbing")
    noisy, _, _, kwargs = prepared(batch(size=40), device="cpu")
    last = kwargs["timesteps"] == T - 1
    assert (noisy[last] == K).all()
    assert set(noisy[~last].unique().tolist()) == {CONTENT[noise_on], K}
    assert all((call["x"] == K).all() for call in prepared.network.calls)


def test_volumes() -> None:
    torch.manual_seed(0)
    noisy, target, _, kwargs = prepare()({key: torch.zeros(40, 1, 4, 6, 2) for key in ("image", "label")})
    assert noisy.shape == target.shape == (40, 1, 4, 6, 2)
    assert (noisy[kwargs["timesteps"] == 0] == FIRST).float().mean() > 0.99


def test_the_seed_of_torch_alone_decides() -> None:
    results = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        results.append(prepare()(batch(), device="cpu")[0])
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


@pytest.mark.parametrize("amp", [False, True])
def test_precision_of_the_first_prediction(amp: bool) -> None:
    network = Oracle()
    prepare(network=network, amp=amp)(batch(), device="cpu")
    assert [call["bfloat16"] for call in network.calls] == [amp]
    assert network.observed_in_bfloat16 == [amp]


def test_the_image_alone_takes_further_arguments() -> None:
    _, target, _, kwargs = prepare()(batch(), device="cpu", dtype=torch.float64)
    assert kwargs["observation"].dtype == torch.float64
    assert target.dtype == torch.int64


@pytest.mark.parametrize("single_step", [False, True])
def test_without_the_distributed_wrapper(single_step: bool) -> None:
    class Wrapper(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

    network = Oracle()
    prepared = prepare(network=Wrapper(network), single_step=single_step)
    prepared(batch(), device="cpu")
    assert prepared.network is network
    assert len(network.calls) == (not single_step)


@pytest.mark.parametrize("value", [K, -1, 255, 0.5, float("nan")])
def test_labels_that_are_refused(value: float) -> None:
    data = batch()
    data["label"][4, 0, 3, 2] = value
    with pytest.raises(AnnotationError, match="one channel with values 0..2") as caught:
        prepare()(data, device="cpu")
    assert "/data/4.png" in str(caught.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: prepare("noise"), "is not a valid value|Unsupported option"),
        (lambda: MaskPriorPrepareBatch(CategoricalScheduler(4), Oracle()), "has 3 classes, expected the scheduler's 4"),
        (lambda: prepare(kernel="absorbing", network=Oracle()), "embeds 3 states, .* 4: give num_states"),
    ],
)
def test_bad_arguments(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


class Thresholds(nn.Module):
    """Segments each pixel by its brightness, and so all the noise of the image as well."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([-10 * (x - 0.5), 10 * (x - 0.5)], dim=1)


def boxes(number: int, seed: int) -> list[dict[str, torch.Tensor]]:
    """Give noisy images of one bright box each."""
    generator = torch.Generator().manual_seed(seed)
    items = []
    for _ in range(number):
        label = torch.zeros(1, 12, 12)
        top, left, height, width = torch.randint(2, 6, (4,), generator=generator).tolist()
        label[:, top : top + height, left : left + width] = 1
        items.append({"image": label + 0.45 * torch.randn(1, 12, 12, generator=generator), "label": label})
    return items


def prior() -> MaskPriorUNet:
    base = BaseSegmentor(Thresholds(), 2, 1, 2, feature_layer="")
    arguments: dict[str, Any] = {"num_res_blocks": 1, "num_head_channels": 8, "norm_num_groups": 4}
    return MaskPriorUNet(
        base, (8, 16), (False, False), condition="prediction", condition_channels=8, embedding_channels=4, **arguments
    )


@pytest.mark.parametrize("noise_on", CONTENT)
def test_real_network(noise_on: str) -> None:
    torch.manual_seed(0)
    network = prior().train()
    prepared = MaskPriorPrepareBatch(CategoricalScheduler(2, T), network, noise_on)
    items = boxes(4, seed=0)
    data = {key: torch.stack([item[key] for item in items]) for key in ("image", "label")}
    noisy, target, _, kwargs = prepared(data, device="cpu")
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not kwargs["observation"].requires_grad
    MaskPriorLoss()(network(noisy, **kwargs), target).backward()
    assert network.projection.weight.grad is not None


def test_refinement_learns() -> None:
    torch.manual_seed(0)
    network, scheduler = prior(), CategoricalScheduler(2, 20)
    prepare_batch = MaskPriorPrepareBatch(scheduler, network)
    ema = EMAHandler(network, momentum=0.05)
    losses: list[float] = []
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=12,
        train_data_loader=DataLoader(Dataset(boxes(40, seed=1)), batch_size=8),
        network=network,
        optimizer=torch.optim.AdamW(network.parameters(), lr=5e-3),
        loss_function=MaskPriorLoss(),
        prepare_batch=prepare_batch,
        inferer=SimpleInferer(),
        train_handlers=[SingleStepStage(prepare_batch, 6), WeightAverage(ema)],
        decollate=False,
    )
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda engine: losses.append(engine.state.output["loss"].item())
    )
    trainer.run()
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])
    items = boxes(20, seed=2)
    image, label = (torch.stack([item[key] for item in items]) for key in ("image", "label"))
    dice = {}
    for steps in (0, 1, 3):
        labels = MaskPriorInferer(scheduler, num_inference_steps=steps, max_batch=20)(image, ema.ema_model).argmax(
            1, True
        )
        dice[steps] = (2 * (labels * label).sum() / (labels.sum() + label.sum())).item()
    assert dice[0] < min(dice[1], dice[3]), "base, single step, full refinement"
