# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch

from benchmarks.window_modes import seam_ratio


def test_a_smooth_map_has_no_seam() -> None:
    ramp = torch.arange(32.0).repeat(32, 1) + torch.arange(32.0)[:, None]
    assert seam_ratio(ramp, [[16], [8, 24]]) == pytest.approx(1.0)


def test_jumps_by_hand() -> None:
    # Steps of 1 from column to column, of 5 across the border before column 2; rows do not differ.
    row = torch.tensor([0.0, 1, 6, 7])
    assert seam_ratio(row.repeat(3, 1), [[], [2]]) == pytest.approx(5 / (6 / 14))
    transposed = row.repeat(3, 1).T.contiguous()
    assert seam_ratio(transposed, [[2], []]) == pytest.approx(5 / (6 / 14))


def test_no_border_at_all() -> None:
    with pytest.raises(ValueError, match="at least one border"):
        seam_ratio(torch.zeros(4, 4), [[], []])
