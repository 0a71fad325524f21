"""ESRGAN's generator: its published size, a dense block written out, sizes."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.quality import RRDBNet


def test_the_papers_network_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in RRDBNet().parameters()) == 16_697_987


@torch.no_grad()
def test_a_block_is_three_dense_ones_with_residuals_of_a_fifth() -> None:
    torch.manual_seed(0)
    net = RRDBNet(2, blocks=1, features=4, growth=3)
    x = torch.rand(1, 4, 6, 5)
    y = x
    for dense in net.body[0].dense.children():  # type: ignore[union-attr]
        a, b, c, d, e = dense.convolutions  # type: ignore[misc]
        x1 = F.leaky_relu(a(y), 0.2)
        x2 = F.leaky_relu(b(torch.cat([y, x1], 1)), 0.2)
        x3 = F.leaky_relu(c(torch.cat([y, x1, x2], 1)), 0.2)
        x4 = F.leaky_relu(d(torch.cat([y, x1, x2, x3], 1)), 0.2)
        y = y + 0.2 * e(torch.cat([y, x1, x2, x3, x4], 1))
    assert torch.allclose(net.body(x), x + 0.2 * y, atol=1e-6)
    small = torch.rand(2, 3, 6, 5)
    assert net(small).shape == (2, 3, 12, 10)
    assert RRDBNet(4, blocks=1, features=4, growth=3)(small).shape == (2, 3, 24, 20)
    with pytest.raises(UsageError, match="scale must be 2 or 4, not 3"):
        RRDBNet(3)
