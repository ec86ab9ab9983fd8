# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import pytest
import torch
from ignite.engine import Events
from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines import SupervisedTrainer
from monai.inferers import DiffusionInferer

from monai_segdiff import RespacedDDIMScheduler, RespacedDDPMScheduler, SegDiffPrepareBatch, SegDiffUNet
from monai_segdiff.exceptions import AnnotationError

STEPS = 50


def batch(size: int = 4, classes: int = 1) -> dict[str, MetaTensor]:
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(size, 3, 8, 6, generator=generator)
    label = torch.randint(0, classes + 1, (size, 1, 8, 6), generator=generator).float()
    meta = {"filename_or_obj": [f"/data/{i}.png" for i in range(size)]}
    return {"image": MetaTensor(image, meta=meta), "label": MetaTensor(label, meta=meta)}


def prepare(prediction_type: str = "epsilon", classes: int = 1) -> SegDiffPrepareBatch:
    scheduler = RespacedDDPMScheduler(num_train_timesteps=STEPS, prediction_type=prediction_type)
    return SegDiffPrepareBatch(scheduler, mask_channels=classes)


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
def test_targets(prediction_type: str) -> None:
    torch.manual_seed(1)
    data = batch()
    masks, target, args, kwargs = prepare(prediction_type)(data, device="cpu")
    clean = 2 * data["label"].as_tensor() - 1
    assert torch.equal(masks, clean)
    assert set(masks.unique().tolist()) == {-1.0, 1.0}
    assert args == ()
    assert set(kwargs) == {"noise", "timesteps", "condition"}
    assert torch.equal(kwargs["condition"], data["image"].as_tensor())
    # arXiv 2112.00390, eq. 2 and 3, with betas from 1e-4 to 0.02 times 1000 / T
    betas = torch.linspace(1e-4 * 1000 / STEPS, 2e-2 * 1000 / STEPS, STEPS, dtype=torch.float64)
    alpha_bar = torch.cumprod(1 - betas, 0)[kwargs["timesteps"]].reshape(-1, 1, 1, 1)
    expected = {
        "epsilon": kwargs["noise"],
        "sample": clean,
        "v_prediction": (alpha_bar.sqrt() * kwargs["noise"] - (1 - alpha_bar).sqrt() * clean).float(),
    }[prediction_type]
    torch.testing.assert_close(target, expected, rtol=0, atol=1e-6)
    for tensor in (masks, target, *kwargs.values()):
        assert type(tensor) is torch.Tensor


def test_timesteps_and_noise() -> None:
    torch.manual_seed(2)
    data = {"image": torch.zeros(2000, 3, 2, 2), "label": torch.ones(2000, 1, 2, 2)}
    kwargs = prepare()(data, device="cpu")[3]
    timesteps, noise = kwargs["timesteps"], kwargs["noise"]
    assert timesteps.dtype == torch.int64
    counts = torch.bincount(timesteps, minlength=STEPS)
    assert len(counts) == STEPS
    # 40 expected of each; six standard deviations
    assert counts.min() > 40 - 6 * 40**0.5
    assert counts.max() < 40 + 6 * 40**0.5
    assert noise.shape == (2000, 1, 2, 2)
    assert noise.mean().abs() < 0.05
    assert noise.std() == pytest.approx(1.0, abs=0.05)
    again = prepare()(data, device="cpu")[3]
    assert not torch.equal(again["noise"], noise)


class FirstGuess(torch.nn.Module):
    """Predicts one value everywhere; remembers what it was asked."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = torch.nn.Parameter(torch.tensor(value))
        self.calls: list[tuple[torch.Tensor, list[int], torch.Tensor]] = []

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        self.calls.append((x, timesteps.tolist(), context))
        return self.value.expand_as(x)


def prepare_on(noise_on: str, prediction_type: str = "sample", value: float = 0.25, **arguments: Any) -> Any:
    scheduler = RespacedDDPMScheduler(num_train_timesteps=STEPS, prediction_type=prediction_type)
    return SegDiffPrepareBatch(scheduler, noise_on=noise_on, network=FirstGuess(value), **arguments)


def test_noise_on_the_first_prediction() -> None:
    torch.manual_seed(3)
    data = batch()
    prepared = prepare_on("prediction")
    masks, target, _, kwargs = prepared(data, device="cpu")
    # The guess is noised, the truth stays the target.
    assert torch.equal(masks, torch.full_like(masks, 0.25))
    assert torch.equal(target, 2 * data["label"].as_tensor() - 1)
    ((noise, timesteps, context),) = prepared.network.calls
    assert timesteps == [STEPS - 1]
    assert torch.equal(context, data["image"].as_tensor())
    assert noise.std() == pytest.approx(1.0, abs=0.2)
    assert not torch.equal(noise, kwargs["noise"])
    assert not masks.requires_grad


def test_the_first_prediction_is_clamped() -> None:
    masks = prepare_on("prediction", value=7.0)(batch(), device="cpu")[0]
    assert torch.equal(masks, torch.ones_like(masks))


def test_the_first_prediction_is_made_without_the_distributed_wrapper() -> None:
    network = FirstGuess(-0.5)
    scheduler = RespacedDDPMScheduler(num_train_timesteps=STEPS, prediction_type="sample")
    wrapped = torch.nn.Module()
    wrapped.module = network
    masks = SegDiffPrepareBatch(scheduler, noise_on="prediction", network=wrapped)(batch(), device="cpu")[0]
    assert torch.equal(masks, torch.full_like(masks, -0.5))


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("noise_on", ["truth", "prediction", "mixture"])
def test_the_target_leads_from_the_noisy_mask_to_the_truth(prediction_type: str, noise_on: str) -> None:
    torch.manual_seed(4)
    data = batch(size=16)
    prepared = prepare_on(noise_on, prediction_type)
    masks, target, _, kwargs = prepared(data, device="cpu")
    scheduler = prepared.scheduler
    noisy = scheduler.add_noise(masks, kwargs["noise"], kwargs["timesteps"])
    for row, t in enumerate(kwargs["timesteps"].tolist()):
        estimate = scheduler.predict_original_sample(target[row].double(), t, noisy[row].double())
        truth = 2 * data["label"].as_tensor()[row].double() - 1
        # Near pure noise the estimate from epsilon is amplified by 1 / sqrt(alpha_bar), up to 221.
        torch.testing.assert_close(estimate, truth, rtol=0, atol=5e-4)


def test_mixture_takes_each_sample_whole() -> None:
    torch.manual_seed(5)
    data = {"image": torch.zeros(2000, 3, 2, 2), "label": torch.ones(2000, 1, 2, 2)}
    masks = prepare_on("mixture", prediction_share=0.25)(data, device="cpu")[0]
    on_prediction = (masks == 0.25).flatten(1)
    assert torch.equal(on_prediction.any(1), on_prediction.all(1))
    # six standard deviations of a binomial
    assert abs(on_prediction[:, 0].sum().item() - 500) < 6 * (2000 * 0.25 * 0.75) ** 0.5


def drawn(weights: Any, prediction_type: str = "sample") -> torch.Tensor:
    torch.manual_seed(6)
    scheduler = RespacedDDPMScheduler(num_train_timesteps=STEPS, prediction_type=prediction_type)
    prepared = SegDiffPrepareBatch(scheduler, timestep_weights=weights)
    return torch.bincount(prepared.get_timesteps(torch.zeros(100_000)), minlength=STEPS) / 100_000


def test_timesteps_follow_their_weights() -> None:
    weights = [0.0] * (STEPS - 2) + [1.0, 3.0]
    assert drawn(weights)[:-2].sum() == 0
    assert drawn(weights)[-1].item() == pytest.approx(0.75, abs=0.01)


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
def test_min_snr_weights_the_error_of_the_clean_mask(prediction_type: str) -> None:
    """Drawn often x (error of x0 per error of the output)^-1 must be min(SNR, 5), arXiv 2303.09556."""
    alpha_bar = RespacedDDPMScheduler(num_train_timesteps=STEPS).alphas_cumprod
    # |x0 error|^2 = |output error|^2 times: (1 - ab) / ab for epsilon, 1 for x0, 1 - ab for v.
    gain = {"epsilon": (1 - alpha_bar) / alpha_bar, "sample": torch.ones(STEPS), "v_prediction": 1 - alpha_bar}
    expected = (alpha_bar / (1 - alpha_bar)).clamp(max=5) * gain[prediction_type]
    torch.testing.assert_close(
        drawn("min_snr", prediction_type).double(), (expected / expected.sum()).double(), rtol=0, atol=0.005
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"noise_on": "prediction"}, "needs the network"),
        ({"noise_on": "mixture"}, "needs the network"),
        ({"noise_on": "guess"}, "Unsupported option"),
        ({"prediction_share": 1.5}, "prediction_share must lie"),
        ({"timestep_weights": "snr"}, "'uniform', 'min_snr' or numbers, found 'snr'"),
        ({"timestep_weights": [1.0]}, "must be 50 numbers .* found 1"),
        ({"timestep_weights": [0.0] * 50}, "not all 0"),
        ({"timestep_weights": [-1.0] + [1.0] * 49}, "at least 0"),
        ({"timestep_weights": [float("nan")] + [1.0] * 49}, "must be 50 numbers"),
    ],
)
def test_bad_options(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SegDiffPrepareBatch(RespacedDDPMScheduler(num_train_timesteps=STEPS), **arguments)


def test_one_channel_for_each_class() -> None:
    data = batch(classes=3)
    masks, _, _, kwargs = prepare(classes=3)(data, device="cpu")
    label = data["label"].as_tensor()[:, 0]
    assert masks.shape == kwargs["noise"].shape == (4, 3, 8, 6)
    for index in (1, 2, 3):
        assert torch.equal(masks[:, index - 1], torch.where(label == index, 1.0, -1.0))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool, torch.int64, torch.float64])
def test_types_of_labels(dtype: torch.dtype) -> None:
    data = batch()
    masks = prepare()({**data, "label": data["label"].to(dtype)}, device="cpu")[0]
    assert masks.dtype == torch.float32
    assert torch.equal(masks, 2 * data["label"].as_tensor() - 1)


def changed(value: float) -> Any:
    def change(label: MetaTensor) -> MetaTensor:
        label[1, 0, 3, 2] = value
        return label

    return change


@pytest.mark.parametrize(
    ("change", "classes", "found"),
    [
        (changed(2), 1, "values 0..1; found 1 channel.s. with values .0.0, 1.0, 2.0."),
        (changed(255), 1, "255.0"),
        (changed(-1), 1, "-1.0"),
        (changed(0.5), 1, "0.5"),
        (changed(float("nan")), 1, "nan"),
        (changed(4), 3, "values 0..3"),
        (lambda label: torch.cat([label, label], 1), 1, "found 2 channel"),
    ],
)
def test_labels_that_are_refused(change: Any, classes: int, found: str) -> None:
    data = batch()
    data["label"] = change(data["label"])
    with pytest.raises(AnnotationError, match=found) as caught:
        prepare(classes=classes)(data, device="cpu")
    assert "/data/1.png" in str(caught.value)


def test_plain_tensors_that_are_refused() -> None:
    with pytest.raises(AnnotationError, match=r"7.0.* in the batch"):
        prepare()({"image": torch.zeros(1, 3, 4, 4), "label": torch.full((1, 1, 4, 4), 7.0)}, device="cpu")


@pytest.mark.parametrize("classes", [1, 2])
@pytest.mark.parametrize("noise_on", ["truth", "prediction"])
def test_trains(classes: int, noise_on: str) -> None:
    torch.manual_seed(0)
    network = SegDiffUNet(
        spatial_dims=2,
        image_channels=3,
        mask_channels=classes,
        channels=(32, 32),
        attention_levels=(False, False),
        num_res_blocks=1,
        num_rrdb_blocks=1,
    )
    before = {name: value.clone() for name, value in network.named_parameters()}
    scheduler = RespacedDDIMScheduler(num_train_timesteps=STEPS, prediction_type="sample")
    generator = torch.Generator().manual_seed(0)
    items = [
        {
            "image": torch.randn(3, 16, 16, generator=generator),
            "label": torch.randint(0, classes + 1, (1, 16, 16), generator=generator).float(),
        }
        for _ in range(2)
    ]
    losses = []
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=20,
        train_data_loader=DataLoader(Dataset(items), batch_size=2),
        network=network,
        optimizer=torch.optim.AdamW(network.parameters(), lr=1e-3),
        loss_function=torch.nn.MSELoss(),
        prepare_batch=SegDiffPrepareBatch(scheduler, classes, noise_on=noise_on, network=network),
        inferer=DiffusionInferer(scheduler),
        decollate=False,
    )
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda engine: losses.append(engine.state.output["loss"].item())
    )
    trainer.run()
    # The last convolution starts at zero, so that the first prediction is 0 and its error exactly 1.
    assert losses[0] == pytest.approx(1.0)
    assert sum(losses[-5:]) / 5 < 0.8
    unchanged = [name for name, value in network.named_parameters() if torch.equal(value, before[name])]
    assert unchanged == []
