# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import sys
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from monai_segdiff import GenerationStopping, ProbabilityToMask, WindowPlan
from monai_segdiff.inferers.generation_statistics import RunningStatistics

sys.path.insert(0, str(Path(__file__).parent))
from inferer_stand_ins import Oracle, Pointwise, image_of, one_step_inferer  # noqa: E402


def tally_of(generations: torch.Tensor) -> RunningStatistics:
    tally = RunningStatistics()
    for generation in generations:
        tally.add(generation[None])
    return tally


class Case:
    """Random generations ``[window, N, C, roi]`` of a row of overlapping windows."""

    def __init__(self, seed: int) -> None:
        draw = np.random.default_rng(seed)
        self.count = int(draw.integers(1, 10))
        self.classes = int(draw.integers(1, 4))
        self.threshold = float(draw.choice([0.5, 0.5, 0.3, 0.71]))
        overlap, mode = float(draw.choice([0.0, 0.25, 0.5])), str(draw.choice(["gaussian", "constant"]))
        self.plan = WindowPlan((int(draw.integers(4, 9)),), 4, overlap, mode)
        self.windows = len(self.plan.windows)
        shape = (self.windows, self.count, self.classes, 4)
        # Sure in most pixels, and then more or less so, that windows stop at different times.
        power = draw.choice([0.01, 0.05, 1], (self.windows, 1, 1, 1))
        certain = draw.random((self.windows, 1, self.classes, 4)) ** power
        certain = np.where(draw.random(certain.shape) < 0.4, certain, 1 - certain)
        values = draw.random(shape) < certain if draw.random() < 0.5 else draw.normal(certain, 0.15, shape).clip(0, 1)
        self.generations = torch.from_numpy(values.astype(np.float32))
        self.to_mask = ProbabilityToMask(self.threshold)

    def blended(self, means: list[torch.Tensor]) -> torch.Tensor:
        total = torch.zeros(1, self.classes, *self.plan.padded_size)
        for window, mean in enumerate(means):
            self.plan.add(total, window, mean)
        return (total / self.plan.total_weight())[0]

    def run(self, stopping: GenerationStopping) -> tuple[list[int], list[dict[int, int]]]:
        """Return after how many generations each window stops, and the counts of all windows at every check."""
        counts, active, history = [0] * self.windows, list(range(self.windows)), []
        for check in stopping.checks(self.count):
            for window in active:
                counts[window] = check
            history.append(dict(enumerate(counts)))
            active = stopping.undecided(active, self.tallies(counts), self.count, self.plan)
        return counts, history

    def tallies(self, counts: list[int]) -> dict[int, RunningStatistics]:
        return {window: tally_of(self.generations[window, :count]) for window, count in enumerate(counts)}

    def completions(self, counts: dict[int, int]) -> torch.Tensor:
        """Return the blended means if the rest of each window and class is all background or all foreground."""
        sums = [self.generations[window, :count].double().sum(0) for window, count in counts.items()]
        weights = self.plan.total_weight()[0].double()
        results = []
        for ends in product((0, 1), repeat=self.windows * self.classes):
            total = torch.zeros(self.classes, *self.plan.padded_size, dtype=torch.float64)
            for window, rest in enumerate(torch.tensor(ends).reshape(self.windows, self.classes, 1)):
                mean = (sums[window] + rest * (self.count - counts[window])) / self.count
                total[:, self.plan.windows[window][0]] += mean * self.plan.weights.double()
            results.append(total / weights)
        return torch.stack(results, 1)

    def touched(self, masks: torch.Tensor, window: int) -> torch.Tensor:
        return masks[..., self.plan.windows[window][0]]


@pytest.mark.parametrize("block", range(4))
def test_no_completion_could_change_a_window_that_stops(block: int) -> None:
    stopped_early = 0
    for seed in range(40 * block, 40 * block + 40):
        case = Case(seed)
        stops, history = case.run(GenerationStopping(case.threshold))
        full = case.to_mask(case.blended([tally.mean for tally in case.tallies([case.count] * case.windows).values()]))
        final = case.to_mask(case.blended([tally.mean for tally in case.tallies(stops).values()]))
        # What counts in the end: the mask is the one of all generations.
        assert torch.equal(final, full), seed
        for counts in history:
            results = case.completions(counts)
            masks = case.to_mask(results)
            # On a threshold or at a tie of two classes within float32 either answer is right.
            best = results.topk(min(2, case.classes), dim=0).values
            near = (results - case.threshold).abs() < 3e-5
            near = near.any(0) | ((best[0] - best[-1] < 3e-5) if case.classes > 1 else torch.zeros_like(near[0]))
            for window, count in counts.items():
                pixels = case.touched(masks, window)
                if stops[window] == count < case.count:
                    stopped_early += 1
                    assert (pixels == case.touched(final, window)).all(), seed
                elif stops[window] > count:
                    # It goes on for a reason.
                    assert (pixels != pixels[:, :1]).any() or case.touched(near, window).any(), seed
    assert stopped_early > 20


@pytest.mark.parametrize("count", [1, 2, 3, 4, 9, 10, 12])
@pytest.mark.parametrize("threshold", [0.5, 0.3, 0.71, 0.9])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_agreeing_generations_stop_as_soon_as_the_votes_suffice(count: int, threshold: float, value: float) -> None:
    stopping, plan = GenerationStopping(threshold), WindowPlan((6, 6), 4)
    generations = torch.full((count, 1, 4, 4), value)
    needed = count
    for done in range(count, 0, -1):
        # The worst that can still come; on the threshold it would be background, but for a margin of rounding.
        worst = done / count if value else (count - done) / count
        if (worst > threshold + 1e-5) if value else (worst <= threshold - 1e-5):
            needed = done
    found = None
    for check in stopping.checks(count):
        tallies = {window: tally_of(generations[:check]) for window in range(len(plan.windows))}
        if found is None and not stopping.undecided(list(tallies), tallies, count, plan):
            found = check
    assert (found or count) == needed
    if threshold == 0.5:
        assert needed == count // 2 + 1
        assert stopping.checks(count)[0] == needed


@pytest.mark.parametrize("threshold", [0.5, 0.1, 0.3, 0.7, 0.9, 1 / 3])
def test_checks_skip_only_what_cannot_be_decided(threshold: float) -> None:
    for count in range(1, 40):
        checks = GenerationStopping(threshold).checks(count)
        assert checks == list(range(checks[0], count + 1))
        # One generation before the first check: neither all foreground nor all background would do.
        assert checks[0] - 1 <= count * threshold + 1e-9
        assert checks[0] - 1 <= count * (1 - threshold) + 1e-9
        assert GenerationStopping(threshold, tolerance=0.1).checks(count) == list(range(min(2, count), count + 1))


def test_a_window_waits_for_the_neighbour_in_their_overlap() -> None:
    plan, stopping = WindowPlan((6,), 4, overlap=0.5, mode="constant"), GenerationStopping()
    agreed = tally_of(torch.zeros(6, 1, 4))
    # The neighbour's doubts lie outside of the overlap, then inside.
    for doubtful, expected in ((3, [1]), (0, [0, 1])):
        votes = torch.zeros(6, 1, 4)
        votes[:4, :, doubtful] = 1
        assert stopping.undecided([0, 1], {0: agreed, 1: tally_of(votes)}, 9, plan) == expected
        # Windows that are not active are not asked for.
        assert stopping.undecided([1], {0: agreed, 1: tally_of(votes)}, 9, plan) == [1]


def test_rounding_decides_nothing() -> None:
    # One pixel of the overlap may end on the threshold, a third; blended in float32 that is a little more or less.
    stopping = GenerationStopping(1 / 3)
    for roi in range(4, 24):
        plan = WindowPlan((roi + roi // 2,), roi, overlap=0.5)
        for pixel in range(plan.origin(1)[0], roi):
            tallies = {}
            for window in range(2):
                votes = torch.ones(2, 1, roi)
                votes[0, :, pixel - plan.origin(window)[0]] = 0
                tallies[window] = tally_of(votes)
            assert stopping.undecided([0, 1], tallies, 3, plan) == [0, 1]


def test_classes_compete() -> None:
    plan, stopping = WindowPlan((1, 1)), GenerationStopping()
    sure, close = [[0.9], [0.1]], [[0.9], [0.8]]
    for values, expected in ((sure, []), (close, [0])):
        # Seven of nine: above the threshold in both cases, but the second class could still become the likelier one.
        generations = torch.tensor(values)[None, :, :, None].repeat(7, 1, 1, 1)
        assert stopping.undecided([0], {0: tally_of(generations)}, 9, plan) == expected


ROUNDS = [
    {"roi_size": 8, "overlap": 0.25, "mode": "gaussian", "num_generations": 9},
    {"roi_size": 8, "overlap": 0.5, "mode": "constant", "num_generations": 8},
    {"roi_size": (8, 12), "overlap": 0.0, "mode": "constant", "num_generations": 5},
    {"roi_size": None, "num_generations": 7},
]


def half_sure_image(classes: int = 1) -> torch.Tensor:
    """Every generation agrees on the left, and no two of them on the right."""
    image = image_of(2, classes, 20, 26)
    image[..., :13] = torch.where(image[..., :13] > 0, 9.0, -9.0)
    return image


@pytest.mark.parametrize("arguments", ROUNDS)
@pytest.mark.parametrize("soft", [True, False])
@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("threshold", [0.5, 0.3])
def test_same_mask_with_fewer_rows(arguments: dict[str, Any], soft: bool, classes: int, threshold: float) -> None:
    image = half_sure_image(classes)
    full, fewer = Pointwise(classes, soft), Pointwise(classes, soft)
    expected = one_step_inferer(**arguments)(image, full)
    found = one_step_inferer(stopping=GenerationStopping(threshold), **arguments)(image, fewer)
    to_mask = ProbabilityToMask(threshold)
    assert all(torch.equal(to_mask(a), to_mask(b)) for a, b in zip(found, expected, strict=True))
    assert to_mask(expected[0]).unique().tolist() == list(range(classes + 1))
    assert len(fewer.rows) <= len(full.rows)
    if arguments["roi_size"] is not None and classes == 1:
        # Some windows stop, some go on.
        windows = len(full.rows) // arguments["num_generations"]
        least = GenerationStopping(threshold).checks(arguments["num_generations"])[0]
        assert windows * least < len(fewer.rows) < len(full.rows)


@pytest.mark.parametrize("count", [1, 2, 8, 9])
@pytest.mark.parametrize("steps", [1, 3])
def test_network_rows_where_all_generations_agree(count: int, steps: int) -> None:
    network = Oracle()
    arguments = {"roi_size": 16, "overlap": 0.0, "num_generations": count, "num_inference_steps": steps}
    stopping = one_step_inferer(stopping=GenerationStopping(), **arguments)
    result = stopping(torch.full((1, 1, 32, 32), -1.0), network)
    assert not result.any()
    assert sum(network.rows) == 4 * steps * (count // 2 + 1)
    assert network.encoded == 4
    # The single generations are all wanted.
    network = Oracle()
    assert len(stopping.generations(torch.full((1, 1, 32, 32), -1.0), network)) == count
    assert sum(network.rows) == 4 * steps * count


def test_generations_and_joint_mode_ignore_stopping() -> None:
    image, arguments = image_of(1, 1, 20, 26), dict[str, Any](roi_size=8, num_generations=5)
    plain, stopping = (one_step_inferer(stopping=rule, **arguments) for rule in (None, GenerationStopping()))
    assert torch.equal(stopping.generations(image, Pointwise()), plain.generations(image, Pointwise()))
    arguments["window_mode"] = "joint"
    plain, stopping = (one_step_inferer(stopping=rule, **arguments) for rule in (None, GenerationStopping(0.5, 0.3)))
    assert torch.equal(stopping(image, Pointwise()), plain(image, Pointwise()))


@pytest.mark.parametrize("tolerance", [0.0, 0.02])
def test_same_bits_for_any_batching(tolerance: float) -> None:
    image = half_sure_image()
    arguments = {"roi_size": 8, "num_generations": 9, "stopping": GenerationStopping(0.5, tolerance)}
    expected = one_step_inferer(max_batch=1, **arguments).statistics(image, Pointwise())
    for max_batch in (2, 3, 7, 100):
        found = one_step_inferer(max_batch=max_batch, **arguments).statistics(image, Pointwise())
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
        # Images stop for themselves, whatever they are batched with.
        alone = one_step_inferer(max_batch=max_batch, **arguments)(image[1:], Pointwise())
        assert torch.equal(alone, expected.mean[1:])


def test_means_are_those_of_the_generations_that_were_drawn() -> None:
    image, arguments = torch.full((1, 1, 8, 8), 6.0), {"num_generations": 9}
    found = one_step_inferer(stopping=GenerationStopping(), **arguments).statistics(image, Pointwise())
    first = one_step_inferer(**arguments).generations(image, Pointwise())[:5]
    torch.testing.assert_close(found.mean, first.mean(0), atol=1e-6, rtol=0)
    torch.testing.assert_close(found.variance, first.var(0, correction=0), atol=1e-6, rtol=0)


def simulated_changes(generations: np.ndarray, left: int, threshold: float, seed: int) -> float:
    """Draw what the mean of all would be: an unknown true mean, and ``left`` further generations around it."""
    draw, done = np.random.default_rng(seed), len(generations)
    mean, deviation = generations.mean(0), generations.std(0, ddof=1)
    truth = mean + deviation / done**0.5 * draw.normal(size=(20000, *mean.shape))
    further = truth + deviation / left**0.5 * draw.normal(size=truth.shape)
    final = (done * mean + left * further) / (done + left)
    return float(((final > threshold) != (mean > threshold)).mean())


@pytest.mark.parametrize(("done", "count"), [(2, 3), (2, 30), (5, 9), (20, 30), (29, 30)])
@pytest.mark.parametrize("threshold", [0.5, 0.3])
def test_expected_changes_against_monte_carlo(done: int, count: int, threshold: float) -> None:
    values = np.random.default_rng(done).normal(np.linspace(0.25, 0.6, 12), 0.1, (done, 12))
    stopping, tally = GenerationStopping(threshold), tally_of(torch.from_numpy(values).float()[:, None])
    found = stopping.expected_changes(tally, count)
    assert found == pytest.approx(simulated_changes(values, count - done, threshold, 1), abs=0.004)
    # All are in: nothing changes.
    assert stopping.expected_changes(tally, done) == 0


def test_expected_changes_are_calibrated_for_normal_generations() -> None:
    # True means all around the threshold, a deviation that must itself be estimated from ten generations.
    draw, done, count = np.random.default_rng(0), 10, 30
    truth = draw.uniform(0, 1, 40000)
    generations = draw.normal(truth, 0.2, (count, 40000)).astype(np.float32)
    changed = (generations.mean(0) > 0.5) != (generations[:done].mean(0) > 0.5)
    tally = tally_of(torch.from_numpy(generations[:done])[:, None])
    assert GenerationStopping().expected_changes(tally, count) == pytest.approx(changed.mean(), rel=0.1)
    assert changed.mean() > 0.02


@pytest.mark.parametrize(
    ("means", "certain"),
    [
        ((0.9, 0.1), True),
        ((0.8, 0.79), False),  # both above the threshold, either may be the likelier in the end
        ((0.8, 0.7), False),
        ((0.52, 0.1), False),
        ((0.45, 0.46), False),
        ((0.2, 0.1), True),
        ((0.3, 0.8), True),
    ],
)
def test_expected_changes_of_several_classes(means: tuple[float, ...], certain: bool) -> None:
    draw, done, count = np.random.default_rng(0), 10, 30
    # True means spread around these, so that the first generations tell as much as the rule takes them to tell.
    truth = np.array(means)[:, None] + draw.uniform(-0.2, 0.2, (2, 20000))
    # The classes draw against each other, apart, or together: never too sure, and close where they draw against.
    for partner, excess in ((-1.0, 1.2), (0.0, 2.0), (1.0, float("inf"))):
        first, second = draw.normal(size=(2, count, 20000))
        noise = np.stack([first, partner * first + (1 - abs(partner)) * second], 1)
        generations = torch.from_numpy((truth + 0.1 * noise).astype(np.float32))
        to_mask = ProbabilityToMask()
        changed = (to_mask(generations[:done].mean(0)) != to_mask(generations.mean(0))).float().mean().item()
        found = GenerationStopping().expected_changes(tally_of(generations[:done]), count)
        assert 0.9 * changed - 1e-3 <= found <= excess * max(changed, 1e-9) + 0.01, partner
        assert (found < 0.02) == certain


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        # Two generations of four each.
        ([[0.2, 0.2], [0.9, 0.9]], 0.0),  # no deviation, no doubt
        ([[0.5, 0.5]], 0.0),  # not even on the threshold: 0 / 0
        ([[0.0, 1.0]], 0.5),  # on the threshold either side is as likely
        ([[0.0, 1.0], [0.2, 0.2], [0.3, 0.7], [0.5, 0.5]], 0.25),
    ],
)
def test_expected_changes_without_deviation_and_on_the_threshold(pixels: list, expected: float) -> None:
    tally = tally_of(torch.tensor(pixels).T[:, None])
    assert GenerationStopping().expected_changes(tally, 4) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("tolerance", "stops"),
    # One pixel of four is open, on the threshold: an eighth of the pixels will change.
    [(0.0, False), (0.12, False), (0.125, True), (0.13, True), (0.99, True)],
)
def test_tolerance(tolerance: float, stops: bool) -> None:
    generations = torch.zeros(2, 1, 2, 2)
    generations[0, 0, 0, 0] = 1
    plan, stopping = WindowPlan((2, 2)), GenerationStopping(tolerance=tolerance)
    tally = tally_of(generations)
    assert stopping.expected_changes(tally, 9) == 0.125
    assert stopping.undecided([0], {0: tally}, 9, plan) == ([] if stops else [0])
    # One generation tells nothing of their deviation.
    assert stopping.undecided([0], {0: tally_of(generations[:1])}, 9, plan) == [0]


def test_tolerance_saves_rows() -> None:
    image, arguments = half_sure_image(), {"roi_size": 8, "num_generations": 20}
    expected = one_step_inferer(**arguments)(image, Pointwise()) > 0.5
    rows, changes = [], []
    for tolerance in (0.0, 0.01, 0.05, 0.2):
        network = Pointwise()
        found = one_step_inferer(stopping=GenerationStopping(0.5, tolerance), **arguments)(image, network) > 0.5
        rows.append(sum(network.rows))
        changes.append((found != expected).float().mean().item())
    assert rows == sorted(rows, reverse=True)
    assert rows[-1] < rows[0] / 2
    assert changes[0] == 0
    assert all(change <= tolerance for change, tolerance in zip(changes, (0.0, 0.01, 0.05, 0.2), strict=True))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"threshold": 0.0}, r"threshold must lie in \(0, 1\), found 0.0"),
        ({"threshold": 1.0}, "found 1.0"),
        ({"threshold": -0.5}, "found -0.5"),
        ({"threshold": float("nan")}, "found nan"),
        ({"tolerance": -0.1}, r"tolerance must lie in \[0, 1\), found -0.1"),
        ({"tolerance": 1.0}, "found 1.0"),
        ({"tolerance": float("nan")}, "found nan"),
    ],
)
def test_bad_arguments(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GenerationStopping(**arguments)
