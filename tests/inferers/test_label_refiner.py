# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from monai_segdiff import CategoricalScheduler
from monai_segdiff.exceptions import DivergenceError
from monai_segdiff.inferers.label_refiner import LabelRefiner
from monai_segdiff.inferers.random_stream import random_stream

sys.path.insert(0, str(Path(__file__).parent))
from inferer_stand_ins import LabelStandIn, image_of, tiny_mask_prior  # noqa: E402

CPU = torch.device("cpu")
KEYS = [(0, 0, 0), (3, 0, 12), (1, 8, 4)]
KERNELS, SAMPLERS = ["uniform", "absorbing"], ["re_noise", "posterior"]
EACH_SCHEME = [(kernel, sampler) for kernel in KERNELS for sampler in SAMPLERS]


class Rows:
    """One row for each image, as :class:`PackedRows` has them. Notes what the network is asked."""

    def __init__(self, network: Any, image: torch.Tensor) -> None:
        self.network = network
        with torch.no_grad():
            self.image_features = network.encode_image(image)
        self.asked: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.answers: list[torch.Tensor] = []

    @torch.no_grad()
    def __call__(self, x: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        self.asked.append((x, timestep))
        self.answers.append(self.network(x, timestep, image_features=self.image_features))
        return self.answers[-1]

    def features(self) -> torch.Tensor:
        return self.image_features


def scheduler_of(steps: int = 4, classes: int = 3, **arguments: Any) -> CategoricalScheduler:
    scheduler = CategoricalScheduler(classes, **arguments)
    scheduler.set_timesteps(steps)
    return scheduler


def keep(level: int) -> float:
    """Probability that a label survives, linear in the level (20 of them)."""
    return 0.99999 + level / 19 * (9e-6 - 0.99999)


def transition(kept: float, classes: int, kernel: str) -> torch.Tensor:
    """Matrix ``[from, to]`` of the probabilities of states."""
    if kernel == "uniform":
        return kept * torch.eye(classes).double() + (1 - kept) / classes
    matrix = kept * torch.eye(classes + 1).double()
    matrix[:, -1] += 1 - kept
    return matrix


def drawn_from_posterior(
    logits: torch.Tensor, t: int, s: int, labels: torch.Tensor, uniform: torch.Tensor, kernel: str
) -> torch.Tensor:
    """Bayes by enumeration of all clean classes c and states k at level s; then the inverse of the cumulative sum."""
    classes = logits.shape[1]
    to_s, s_to_t = transition(keep(s), classes, kernel), transition(keep(t) / keep(s), classes, kernel)
    result = torch.empty_like(labels)
    for index in torch.cartesian_prod(*(torch.arange(size) for size in labels.shape)).tolist():
        row, _, *place = index
        prediction = logits[(row, slice(None), *place)].double().softmax(0)
        total = torch.zeros(len(to_s)).double()
        for c in range(classes):
            both = to_s[c] * s_to_t[:, labels[tuple(index)]]
            if both.sum() > 0:
                total += prediction[c] * both / both.sum()
        cumulative = (total / total.sum()).cumsum(0)
        result[tuple(index)] = sum(uniform[tuple(index)].item() >= bound for bound in cumulative[:-1].tolist())
    return result


def refined_by_hand(
    network: Any, image: torch.Tensor, timesteps: list[int], seed: int, kernel: str, sampler: str, start: str
) -> torch.Tensor:
    """Sections 3.2 to 3.4 of the paper, with one uniform draw to keep a label and another to replace it."""
    classes, stride = network.num_classes, network.latent_stride
    streams = [random_stream(seed, key) for key in KEYS]
    latent = [size // stride for size in image.shape[2:]]

    def uniform() -> torch.Tensor:
        return torch.stack([torch.rand(2, *latent, generator=stream) for stream in streams])

    def noised(labels: torch.Tensor | None, kept: float, noise: torch.Tensor) -> torch.Tensor:
        other = torch.full_like(noise[:, 1:], classes) if kernel == "absorbing" else (noise[:, 1:] * classes).floor()
        return other.long() if labels is None else torch.where(noise[:, :1] < kept, labels, other.long())

    with torch.no_grad():
        features = network.encode_image(image)
        first = None
        if start == "base_prediction":
            first = network.base(image)[1].argmax(1, keepdim=True)[(..., *[slice(stride // 2, None, stride)] * 2)]
        labels = noised(first, keep(timesteps[0]), uniform())
        logits = network(labels, torch.tensor(timesteps[:1]), image_features=features)
        for before, t in pairwise(timesteps):
            if sampler == "re_noise":
                labels = noised(logits.argmax(1, keepdim=True), keep(t), uniform())
            else:
                labels = drawn_from_posterior(logits, before, t, labels, uniform()[:, 1:], kernel)
            logits = network(labels, torch.tensor([t]), image_features=features)
    if stride > 1:
        logits = torch.nn.functional.interpolate(logits, image.shape[2:], mode="bilinear")
    return logits.softmax(1)


@pytest.mark.parametrize(("kernel", "sampler"), EACH_SCHEME)
@pytest.mark.parametrize("start", ["noise", "base_prediction"])
@pytest.mark.parametrize("stride", [1, 2])
def test_equals_the_published_loop_by_hand(kernel: str, sampler: str, start: str, stride: int) -> None:
    scheduler = scheduler_of(kernel=kernel, sampler=sampler)
    network = tiny_mask_prior(num_states=scheduler.num_states, latent_stride=stride)
    if start == "base_prediction":
        scheduler.timesteps = scheduler.timesteps[1:]
    image = image_of(3, 1, 8, 12)
    found = LabelRefiner(scheduler, network, 5, CPU, start=start)(Rows(network, image), KEYS, (3, 8, 12))
    timesteps = [13, 6, 0] if start == "base_prediction" else [19, 13, 6, 0]
    assert torch.equal(found, refined_by_hand(network, image, timesteps, 5, kernel, sampler, start))
    assert found.dtype == torch.float32
    # The labels matter, so that other noise would have been noticed.
    other = refined_by_hand(network, image, timesteps, 6, kernel, sampler, start)
    assert (found - other).abs().max() > 1e-3


def refiner(scheduler: CategoricalScheduler, network: Any, seed: int = 1, **arguments: Any) -> LabelRefiner:
    return LabelRefiner(scheduler, network, seed, CPU, **arguments)


@pytest.mark.parametrize("weight", [0.0, 0.25, 0.5, 1.0])
def test_base_weight(weight: float) -> None:
    image, network = image_of(3, 3, 4, 6), LabelStandIn()
    prior = refiner(scheduler_of(), network)(Rows(network, image), KEYS, (3, 4, 6))
    found = refiner(scheduler_of(), network, base_weight=weight)(Rows(network, image), KEYS, (3, 4, 6))
    torch.testing.assert_close(found, (1 - weight) * prior + weight * image.softmax(1), atol=1e-6, rtol=0)
    torch.testing.assert_close(found.sum(1), torch.ones(3, 4, 6), atol=1e-6, rtol=0)


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("trajectory", [False, True])
def test_without_background(steps: int, trajectory: bool) -> None:
    image, network, scheduler = image_of(3, 3, 4, 6), LabelStandIn(), scheduler_of(2)
    scheduler.timesteps = scheduler.timesteps[:steps]
    parts = [
        refiner(scheduler, network, base_weight=0.3, include_background=include, trajectory=trajectory)(
            Rows(network, image), KEYS, (3, 4, 6)
        )
        for include in (True, False)
    ]
    whole, foreground = (part.unflatten(1, (steps if trajectory and steps else 1, -1)) for part in parts)
    assert torch.equal(foreground, whole[:, :, 1:])


@pytest.mark.parametrize(("kernel", "sampler"), EACH_SCHEME)
@pytest.mark.parametrize("weight", [0.0, 0.4])
def test_trajectory_holds_each_prediction_and_at_last_the_result(kernel: str, sampler: str, weight: float) -> None:
    image, network = image_of(3, 3, 4, 6), LabelStandIn()
    scheduler = scheduler_of(kernel=kernel, sampler=sampler)
    rows = Rows(network, image)
    found = refiner(scheduler, network, base_weight=weight, trajectory=True)(rows, KEYS, (3, 4, 6))
    steps = found.unflatten(1, (4, 3)).movedim(1, 0)
    predicted = torch.stack(rows.answers).softmax(2)
    torch.testing.assert_close(steps, torch.lerp(predicted, image.softmax(1), weight), atol=1e-6, rtol=0)
    last = refiner(scheduler, network, base_weight=weight)(Rows(network, image), KEYS, (3, 4, 6))
    assert torch.equal(steps[-1], last)
    assert not torch.equal(steps[0], last)


@pytest.mark.parametrize("start", ["noise", "base_prediction"])
@pytest.mark.parametrize("weight", [0.0, 0.4])
def test_without_timesteps_the_base_is_the_result(start: str, weight: float) -> None:
    image, network, scheduler = image_of(3, 3, 4, 6), LabelStandIn(), scheduler_of()
    scheduler.timesteps = scheduler.timesteps[:0]
    rows = Rows(network, image)
    found = refiner(scheduler, network, start=start, base_weight=weight)(rows, KEYS, (3, 4, 6))
    assert torch.equal(found, image.softmax(1))
    assert rows.asked == []


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_network_is_asked_with_one_timestep_for_all_rows(kernel: str) -> None:
    image, network = image_of(3, 3, 4, 6), LabelStandIn()
    rows = Rows(network, image)
    refiner(scheduler_of(3, kernel=kernel), network)(rows, KEYS, (3, 4, 6))
    assert [timestep.tolist() for _, timestep in rows.asked] == [[19], [10], [0]]
    assert {(labels.shape, labels.dtype) for labels, _ in rows.asked} == {((3, 1, 4, 6), torch.int64)}
    if kernel == "absorbing":
        # All are tokens at first, and hardly any is at last.
        assert (rows.asked[0][0] == 3).all()
        assert (rows.asked[2][0] < 3).all()


@pytest.mark.parametrize(("kernel", "sampler"), EACH_SCHEME)
@pytest.mark.parametrize("start", ["noise", "base_prediction"])
def test_an_oracle_gives_its_labels_back(kernel: str, sampler: str, start: str) -> None:
    class Oracle(LabelStandIn):
        def mask(self, x: torch.Tensor, image: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
            return 200 * image

    truth = torch.nn.functional.one_hot(torch.arange(72).reshape(3, 4, 6) % 3, 3).movedim(-1, 1).float()
    rows = Rows(network := Oracle(), truth)
    found = refiner(scheduler_of(kernel=kernel, sampler=sampler), network, start=start)(rows, KEYS, (3, 4, 6))
    assert torch.equal(found, truth)
    # What the network sees comes closer and closer to the truth.
    right = [(labels == truth.argmax(1, keepdim=True)).float().mean().item() for labels, _ in rows.asked]
    assert right == sorted(right)
    assert right[0] < 0.6
    assert right[-1] == 1


def test_rows_do_not_depend_on_their_company() -> None:
    image, network = image_of(3, 3, 4, 6), LabelStandIn()
    together = refiner(scheduler_of(), network)(Rows(network, image), KEYS, (3, 4, 6))
    for row in range(3):
        alone = refiner(scheduler_of(), network)(Rows(network, image[row, None]), KEYS[row : row + 1], (3, 4, 6))
        assert torch.equal(alone[0], together[row])
    same_image = Rows(network, image[:1].expand(3, -1, -1, -1))
    one, two, three = refiner(scheduler_of(), network)(same_image, KEYS, (3, 4, 6))
    assert not torch.equal(one, two)
    assert not torch.equal(two, three)
    assert not torch.equal(refiner(scheduler_of(), network, seed=2)(Rows(network, image), KEYS, (3, 4, 6)), together)


@pytest.mark.parametrize(("kernel", "sampler"), EACH_SCHEME)
def test_scheduler_and_global_random_state_are_left_alone(kernel: str, sampler: str) -> None:
    image, network, scheduler = image_of(3, 3, 4, 6), LabelStandIn(), scheduler_of(kernel=kernel, sampler=sampler)
    state, before = torch.get_rng_state(), scheduler.timesteps
    refiner(scheduler, network)(Rows(network, image), KEYS, (3, 4, 6))
    assert torch.equal(torch.get_rng_state(), state)
    assert scheduler.timesteps is before
    assert before.tolist() == [19, 13, 6, 0]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("step", [0, 1, 3])
def test_a_prediction_that_is_not_finite_is_refused_at_any_step(bad: float, step: int) -> None:
    image, network = image_of(3, 3, 4, 6), LabelStandIn()

    class Damaged(Rows):
        def __call__(self, x: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
            answer = super().__call__(x, timestep)
            if len(self.asked) == step + 1:
                answer[1, 2, 3, 4] = bad
            return answer

    with pytest.raises(DivergenceError, match="Expected finite predictions, found NaN or infinity"):
        refiner(scheduler_of(), network)(Damaged(network, image), KEYS, (3, 4, 6))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("arguments", [{"start": "base_prediction"}, {"base_weight": 0.1}, {"steps": 0}])
def test_a_base_that_is_not_finite_is_refused_where_it_is_used(bad: float, arguments: dict[str, Any]) -> None:
    class Sound(LabelStandIn):
        def mask(self, x: torch.Tensor, image: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
            return torch.zeros_like(image)

    image, network, scheduler = image_of(3, 3, 4, 6), Sound(), scheduler_of()
    image[1, 2, 3, 4] = bad
    refiner(scheduler, network)(Rows(network, image), KEYS, (3, 4, 6))
    changes = dict(arguments)
    scheduler.timesteps = scheduler.timesteps[: changes.pop("steps", 4)]
    with pytest.raises(DivergenceError, match="Expected finite predictions"):
        refiner(scheduler, network, **changes)(Rows(network, image), KEYS, (3, 4, 6))


def test_a_class_that_the_base_rules_out_is_no_damage() -> None:
    image, network = image_of(3, 3, 4, 6), LabelStandIn()
    image[:, 1] = -float("inf")
    scheduler = scheduler_of()
    scheduler.timesteps = scheduler.timesteps[:0]
    found = refiner(scheduler, network)(Rows(network, image), KEYS, (3, 4, 6))
    assert (found[:, 1] == 0).all()


@pytest.mark.parametrize(("dims", "stride"), [(2, 1), (2, 2), (3, 2)])
def test_blank_is_an_input_of_the_network(dims: int, stride: int) -> None:
    network = tiny_mask_prior(dims, latent_stride=stride)
    blank = refiner(scheduler_of(), network).blank((2, 3, *[8] * dims))
    assert blank.shape == (2, 1, *[8 // stride] * dims)
    features = network.encode_image(torch.zeros(2, 1, *[8] * dims))
    assert network(blank, torch.tensor([0]), image_features=features).shape == (2, 3, *blank.shape[2:])


def test_results_are_probabilities_already() -> None:
    probability = torch.rand(1, 3, 4, 4)
    assert torch.equal(refiner(scheduler_of(), LabelStandIn()).probability(probability), probability)
