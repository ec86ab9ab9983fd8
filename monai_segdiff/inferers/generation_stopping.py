# SPDX-License-Identifier: Apache-2.0
"""When further generations of a window cannot, or will hardly, change the mask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from .generation_statistics import RunningStatistics
from .window_plan import WindowPlan

__all__ = ["GenerationStopping"]

# More than the rounding of a blended mean, so that "decided" also holds for the numbers that are really computed.
ROUNDING_MARGIN = 1e-5


class GenerationStopping:
    """Stop a window's generations once its part of the mask is decided.

    **Exact rule** (``tolerance=0``). After k of N generations with mean m, the mean of all N lies in ``[k m / N, (k m +
    N - k) / N]``, whatever the others will be, since each is a probability. These intervals are blended over the
    windows like the means. A window stops when every pixel that it touches falls on one side of the threshold (for
    several classes: keeps its most probable class) over the whole of its interval. The mask after
    :class:`~monai_segdiff.ProbabilityToMaskd` of the same threshold is then the one that all N generations give; only
    the probabilities are means of fewer. With a threshold of 0.5 more than half of the generations are always needed.

    **Confidence rule** (``tolerance > 0``). A window also stops when the share of its pixels that would still change
    sides is expected to be at most ``tolerance``. After k of N generations with mean m and deviation s, the mean of all
    N is taken as normal around m with the deviation ``s (N - k) / N sqrt(1 / (N - k) + 1 / k)``. It needs two
    generations and is an estimate: from few generations it may be too confident.

    Args:
        threshold: the probability that foreground must exceed.
        tolerance: expected share of changing pixels in a window, in [0, 1).

    Raises:
        ValueError: a number out of range.

    Example:
        >>> inferer = SegDiffInferer(scheduler, num_generations=9, stopping=GenerationStopping())  # doctest: +SKIP
    """

    def __init__(self, threshold: float = 0.5, tolerance: float = 0.0) -> None:
        if not 0 < threshold < 1:
            raise ValueError(f"threshold must lie in (0, 1), found {threshold}.")
        if not 0 <= tolerance < 1:
            raise ValueError(f"tolerance must lie in [0, 1), found {tolerance}.")
        self.threshold = threshold
        self.tolerance = tolerance

    def checks(self, num_generations: int) -> list[int]:
        """Return after how many generations to look: where one of the rules can hold for the first time, and on."""
        # Foreground needs k > N * threshold, background N - k < N * threshold.
        first = 2 if self.tolerance > 0 else int(num_generations * min(self.threshold, 1 - self.threshold)) + 1
        return list(range(min(first, num_generations), num_generations + 1))

    def undecided(
        self, active: Sequence[int], tallies: Mapping[int, RunningStatistics], num_generations: int, plan: WindowPlan
    ) -> list[int]:
        """Return which of the ``active`` windows need further generations.

        Args:
            active: windows that have not stopped.
            tallies: the generations so far, ``[1, C, *roi_size]``, for every window of the plan, stopped or not.
            num_generations: N.
            plan: where the windows lie.
        """
        device = tallies[0].mean.device
        channels = tallies[0].mean.shape[1]
        lowest, highest = (torch.zeros(1, channels, *plan.padded_size, device=device) for _ in range(2))
        for window, tally in tallies.items():
            certain = tally.mean * (tally.count / num_generations)
            plan.add(lowest, window, certain)
            plan.add(highest, window, certain + (1 - tally.count / num_generations))
        weight = plan.total_weight(device)
        decided = self._decided(lowest / weight, highest / weight)
        going_on = []
        for window in active:
            done = bool(plan.cut(decided, window).all())
            if not done and self.tolerance > 0 and tallies[window].count >= 2:
                done = self.expected_changes(tallies[window], num_generations) <= self.tolerance
            if not done:
                going_on.append(window)
        return going_on

    def expected_changes(self, tally: RunningStatistics, num_generations: int) -> float:
        """Return the share of pixels that are expected to change sides until all generations are in.

        Of several classes a pixel may also change from one to another; the share is then an upper bound, whatever the
        correlation of the classes.
        """
        done, left = tally.count, num_generations - tally.count
        if left == 0:
            return 0.0
        deviation = (tally.variance * done / (done - 1)).sqrt() * (
            left / num_generations * (1 / left + 1 / done) ** 0.5
        )
        best, index = tally.mean.max(1, keepdim=True)
        spread = deviation.gather(1, index)
        # How far each class is from changing the pixel: from the threshold, or from overtaking a class above it. The
        # best class itself may cross the threshold.
        foreground = best > self.threshold
        distance = torch.where(foreground, best, self.threshold) - tally.mean
        distance = distance.scatter(1, index, (best - self.threshold).abs())
        deviation = torch.where(foreground, deviation + spread, deviation).scatter(1, index, spread)
        # Equal generations leave no doubt: a deviation of 0 makes the ratio infinite, or 0 / 0 on the threshold itself.
        flips = torch.special.ndtr(-distance / deviation).nan_to_num(nan=0.0)
        return float(flips.sum(1).clamp(max=1).mean())

    def _decided(self, lowest: torch.Tensor, highest: torch.Tensor) -> torch.Tensor:
        """Return where the class is the same over the whole interval, ``[1, 1, *padded_size]``."""
        background = (highest <= self.threshold - ROUNDING_MARGIN).all(1, keepdim=True)
        best, index = lowest.max(1, keepdim=True)
        others = highest.scatter(1, index, 0.0).amax(1, keepdim=True)
        foreground = (best > self.threshold + ROUNDING_MARGIN) & (best > others + ROUNDING_MARGIN)
        return background | foreground
