"""Total variation and the order of layers (p157, arXiv 2312.15861): constants, ramps, steps, both layers."""

from __future__ import annotations

import pytest
import torch

from binderclip.errors import UsageError
from binderclip.losses import layer_order, total_variation


def test_a_constant_costs_nothing_a_ramp_its_slope_a_step_its_height_however_steep() -> None:
    rows, columns = torch.meshgrid(torch.arange(5.0), torch.arange(9.0), indexing="ij")
    assert float(total_variation(torch.full((2, 2, 5, 9), 3.0))) == 0.0
    ramp = torch.stack([0.3 * columns, -0.2 * rows])[None]
    assert float(total_variation(ramp)) == pytest.approx((0.3 + 0.2) / 2)  # mean over both channels
    step = 4.0 * (columns > 3).expand(1, 1, 5, 9)
    assert float(total_variation(step)) == pytest.approx(4.0 / 8) == float(total_variation(columns[None, None] / 2))


def test_depth_is_drawn_to_the_layer_that_is_seen() -> None:
    region = torch.zeros(1, 1, 4, 4)
    region[..., :1] = 1.0  # a quarter
    assert float(layer_order(torch.zeros(1, 1, 4, 4), region)) == pytest.approx(0.75 * 2)
    assert float(layer_order(torch.full((1, 1, 4, 4), 2.0), region)) == pytest.approx(0.25 * 2)
    # The paper's words: a depth z = -1 + dz is at -1 in the region and at 1 outside of it.
    depth = torch.randn(1, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    z = -1 + depth
    expected = ((z - 1).abs() * (1 - region)).mean() + ((z + 1).abs() * region).mean()
    torch.testing.assert_close(layer_order(depth, region), expected)


def test_mistakes_are_named() -> None:
    with pytest.raises(UsageError, match="at least 2 x 2"):
        total_variation(torch.zeros(1, 2, 1, 5))
    with pytest.raises(UsageError, match="one shape"):
        layer_order(torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 2, 2))
