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
def test_trains(classes: int) -> None:
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
        prepare_batch=SegDiffPrepareBatch(scheduler, mask_channels=classes),
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
