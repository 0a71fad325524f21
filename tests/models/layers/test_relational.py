"""Relational attention (p087, arXiv 2412.06760): one softmax over both images, as a slow loop."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.models import RelationalAttention


@pytest.fixture
def layer() -> RelationalAttention:
    torch.manual_seed(0)
    made = RelationalAttention(12, heads=3, queries=4).double()
    with torch.no_grad():  # norms that are not the identity
        for norm in (made.query_norm, made.key_norm):
            norm.weight.uniform_(0.5, 2.0)
            norm.bias.normal_()
    return made


def literal(layer: RelationalAttention, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """One pair by the paper's formula: attention over the tokens of both, the second's values negated."""
    query = layer.query_norm(layer.to_query(layer.queries))
    keys = [layer.key_norm(layer.to_key(z)) for z in (first, second)]
    width = layer.width // layer.heads
    parts, weights = [], []
    for h in range(layer.heads):
        cut = slice(h * width, (h + 1) * width)
        both = torch.cat([k[:, cut] for k in keys])
        a = (query[:, cut] @ both.T / width**0.5).softmax(-1)
        weights.append(a)
        parts.append(a[:, : len(first)] @ keys[0][:, cut] - a[:, len(first) :] @ keys[1][:, cut])
    total = torch.cat(parts, 1)  # (R, d), heads side by side
    # the released program maps each query's row, bias included, and then sums the rows
    return layer.out(total).sum(0), torch.stack(weights)


def test_every_pair_is_the_published_formula(layer: RelationalAttention) -> None:
    first, second = torch.randn(3, 5, 12).double(), torch.randn(2, 7, 12).double()
    got, itself = layer(first, second), layer(first)
    near, far = layer.attention(first, second)
    for i in range(3):
        for j in range(2):
            value, weights = literal(layer, first[i], second[j])
            assert torch.allclose(got[i, j], value)
            assert torch.allclose(torch.cat([near[i, j], far[i, j]], -1), weights)
        for j in range(3):
            assert torch.allclose(itself[i, j], literal(layer, first[i], first[j])[0])
    assert torch.allclose(near.sum(-1) + far.sum(-1), torch.ones(3, 2, 3, 4).double())


def test_differences_are_exactly_antisymmetric_and_nothing_differs_from_itself(layer: RelationalAttention) -> None:
    values = layer.float().values(torch.randn(6, 9, 12))
    assert torch.equal(values, -values.transpose(0, 1))
    assert not values.diagonal().any()
    assert values.abs().max() > 0.1
    out = layer(torch.randn(4, 9, 12))
    assert torch.allclose(out.diagonal().T, 4 * layer.out.bias.expand(4, 12), atol=1e-6)


def test_rows_may_be_done_in_parts_and_huge_scores_do_not_overflow(layer: RelationalAttention) -> None:
    tokens = torch.randn(5, 4, 12).double()
    parts = torch.cat([layer(rows, tokens) for rows in tokens.split(2)])
    assert torch.allclose(parts, layer(tokens))
    with torch.no_grad():
        layer.query_norm.weight.mul_(1e4)
    assert layer(tokens).isfinite().all()
    assert torch.allclose(layer(tokens)[1, 2], literal(layer, tokens[1], tokens[2])[0])


def test_the_order_of_tokens_does_not_matter_and_gradients_are_right(layer: RelationalAttention) -> None:
    tokens = torch.randn(3, 4, 12).double()
    assert torch.allclose(layer(tokens[:, torch.randperm(4)]), layer(tokens))
    assert torch.autograd.gradcheck(lambda z: layer(z), tokens[:2, :3].clone().requires_grad_())


def test_mistakes_are_named(layer: RelationalAttention) -> None:
    with pytest.raises(UsageError, match="heads 5 does not divide width 12"):
        RelationalAttention(12, heads=5)
    with pytest.raises(UsageError, match="queries must be at least 1, got 0"):
        RelationalAttention(12, heads=3, queries=0)
    with pytest.raises(UsageError, match=r"tokens are \(N, P, 12\)"):
        layer(torch.randn(2, 3, 8).double())
