"""Projection heads: which layers, and that batch normalisation stands where it is asked for."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from binderclip.errors import UsageError
from binderclip.models.layers.projection_head import projection_head


def kinds(head: nn.Sequential) -> list[type[nn.Module]]:
    return [type(layer) for layer in head]


def test_norm_and_relu_stand_between_layers_only() -> None:
    between = [nn.Linear, nn.BatchNorm1d, nn.ReLU]
    assert kinds(projection_head(8, 5)) == [nn.Linear]
    assert kinds(projection_head(8, 6, 7, 5)) == [*between, *between, nn.Linear]
    assert projection_head(8, 6, 7, 5)(torch.randn(4, 8)).shape == (4, 5)


def test_the_end_may_be_a_norm_with_or_without_gain() -> None:
    torch.manual_seed(0)
    assert list(projection_head(8, 5, end="norm")[-1].parameters())
    plain = projection_head(8, 5, end="plain-norm")
    assert not list(plain[-1].parameters())
    out = plain(10 + 3 * torch.randn(64, 8))
    torch.testing.assert_close(out.mean(0), torch.zeros(5), rtol=0, atol=1e-4)
    torch.testing.assert_close(out.var(0, unbiased=False), torch.ones(5), rtol=0, atol=1e-3)


@pytest.mark.parametrize("widths", [(), (8,), (8, 0)])
def test_too_few_widths_are_refused(widths: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="at least two widths"):
        projection_head(*widths)
